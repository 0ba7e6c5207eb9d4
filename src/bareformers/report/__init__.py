"""From measured numbers to something to read: `result.json`, `results.csv`, a table, one HTML file. No torch."""
