"""Laws that every registered mixer and block obeys, in every role and under every padding."""
