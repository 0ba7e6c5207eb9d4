"""Images: where they are read from, what is wrong with some, and what a model sees of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from bareformers.data.batching import Visit
from bareformers.data.corpus import Corpus, LabelledImage
from bareformers.data.examples import Images, part
from bareformers.data.tasks import prepare
from bareformers.errors import InputError
from bareformers.registry import checked, sources


def load(**given):
    return checked(sources.get("images"), given, "source 'images'").load()


def noise(count=60, height=8, width=12, channels=None, seed=0):
    """Images of noise and their labels 0, 1, 2, 0, ..."""
    shape = (count, height, width) if channels is None else (count, height, width, channels)
    return np.random.default_rng(seed).integers(256, size=shape).astype(np.uint8), np.arange(count) % 3


def write(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def folder(root, pixels, labels, suffix="png"):
    """A subfolder for each class."""
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        (root / f"kind{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / f"kind{label}" / f"{index:03}.{suffix}")
    return str(root)


def everything(corpus):
    return [*corpus.train, *corpus.validation, *corpus.test]


# Sources


def test_an_array_is_divided_by_the_hash_of_its_images(tmp_path):
    pixels, labels = noise()
    pixels[1], labels[1] = pixels[0], labels[0]
    corpus = load(path=write(tmp_path / "a.npz", x=pixels, y=labels), validation_share=0.2, test_share=0.2)
    assert corpus.kind == "images" and all((corpus.train, corpus.validation, corpus.test))
    found = everything(corpus)
    assert len(found) == 60 and {item.label for item in found} == {"0", "1", "2"}
    by_name = {item.name: item for item in found}
    item = by_name["a.npz, x[7]"]
    assert np.array_equal(item.pixels, pixels[7]) and item.label == "1"
    sides = [{item.name for item in side} for side in (corpus.train, corpus.validation, corpus.test)]
    assert any({"a.npz, x[0]", "a.npz, x[1]"} <= side for side in sides), "equal images stay together"
    turned = load(
        path=write(tmp_path / "a.npz", images=pixels[::-1], labels=labels[::-1]), validation_share=0.2, test_share=0.2
    )
    assert {item.digest for item in turned.test} == {item.digest for item in corpus.test}


@pytest.mark.parametrize(
    "names, sides",
    [
        (("x_train", "y_train", "x_test", "y_test"), (54, 6, 9)),
        (("train_images", "train_labels", "val_images", "val_labels"), (60, 9, 0)),
    ],
)
def test_sides_in_a_file(tmp_path, names, sides):
    (pixels, labels), (others, theirs) = noise(), noise(9, seed=1)
    path = write(tmp_path / "a.npz", **dict(zip(names, (pixels, labels[:, None], others, theirs), strict=True)))
    corpus = load(path=path)
    assert len(corpus.train) + len(corpus.validation) == sides[0] + sides[1] and len(corpus.test) == sides[2]
    assert corpus == corpus and len(corpus.validation) >= 1
    words = {"test_share": 0.3} if sides[2] else {"validation_share": 0.3}
    if sides[2]:
        assert any("training images for validation, chosen by hash" in note for note in corpus.notes)
    with pytest.raises(InputError, match="does nothing with .*which has sides; leave it out"):
        load(path=path, **words)


def test_files_for_sides_and_names_of_classes(tmp_path):
    train = write(tmp_path / "a.npz", pictures=noise()[0], kinds=noise()[1])
    test = write(tmp_path / "b.npz", pictures=noise(9, seed=1)[0], kinds=noise(9)[1])
    words = dict(images="pictures", labels="kinds", label_names=["ant", "bee", "cow"])
    corpus = load(train=train, test=test, validation_share=0.3, **words)
    assert corpus.labels == ("ant", "bee", "cow") and [item.label for item in corpus.test[:3]] == list(corpus.labels)
    assert len(corpus.validation) > 6
    with pytest.raises(InputError, match="'2' is no number of one of the 2 label_names"):
        load(train=train, test=test, **{**words, "label_names": ["ant", "bee"]})


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_a_folder(tmp_path, suffix):
    pixels, labels = noise()
    root = folder(tmp_path / "all", pixels, labels, suffix)
    (tmp_path / "all" / "kind0" / "notes.txt").write_text("no image")
    corpus = load(path=root)
    found = {item.name: item for item in everything(corpus)}
    assert len(found) == 60 and np.array_equal(found[f"kind1/004.{suffix}"].pixels, pixels[4])
    assert {item.label for item in found.values()} == {"kind0", "kind1", "kind2"}


def test_colours_of_a_folder(tmp_path):
    (gray, labels), (coloured, _) = noise(6), noise(6, channels=3, seed=1)
    folder(tmp_path / "train", gray, labels)
    folder(tmp_path / "train", coloured[:1], labels[:1], "bmp")
    root = folder(tmp_path / "validation", coloured, labels)
    given = dict(train=str(tmp_path / "train"), validation=root)
    assert {item.pixels.shape for item in everything(load(**given))} == {(8, 12, 3)}
    assert {item.pixels.shape for item in everything(load(**given, gray=True))} == {(8, 12)}


def test_mistakes_of_files(tmp_path):
    pixels, labels = noise()

    def said(**given):
        with pytest.raises(InputError) as raised:
            load(**given)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    def of(**arrays):
        return said(path=write(tmp_path / "a.npz", **arrays))

    assert "has the arrays a, b: name those with images and labels, as in images: x and labels: y" in of(
        a=pixels, b=labels
    )
    assert "float64 from 0 to 1: pixels are whole numbers from 0 to 255" in of(x=np.eye(8)[None], y=labels[:1])
    assert "has the shape [60, 3, 8, 12]" in of(x=noise(channels=3)[0].transpose(0, 3, 1, 2), y=labels)
    assert "x holds <U1: pixels are whole numbers" in of(x=np.full((1, 2, 2), "a"), y=labels[:1])
    (tmp_path / "empty.npz").write_bytes(b"")
    assert "is no .npz file of plain arrays" in said(path=str(tmp_path / "empty.npz"))
    assert "there is no image in it" in of(x=pixels[:0], y=labels[:0])
    assert "y is int64 of the shape [59], and x has 60 images: each needs one label" in of(x=pixels, y=labels[1:])
    assert "y is int64 of the shape [60, 3]" in of(x=pixels, y=np.eye(3, dtype=int)[labels])
    ragged = np.empty(2, object)
    ragged[:] = [pixels[0], pixels[1, 1:]]
    assert "is no .npz file of plain arrays" in of(x=ragged, y=labels[:2])
    (tmp_path / "a.txt").write_text("no array")
    assert "is no .npz file of plain arrays" in said(path=str(tmp_path / "a.txt"))
    assert "cannot read" in said(path=str(tmp_path / "none.npz"))
    assert "write either path" in said() and "write either path" in said(path="a", train="b")
    good = write(tmp_path / "good.npz", x=pixels, y=labels)
    assert "gray does nothing with .npz files" in said(path=good, gray=True)
    assert "gives two classes one name" in said(path=good, label_names=["a", "a", "b"])
    sides = write(tmp_path / "sides.npz", x_train=pixels, y_train=labels)
    assert "has sides of its own, train; write path: " in said(train=sides)


def test_mistakes_of_folders(tmp_path):
    pixels, labels = noise(6)
    root = tmp_path / "all"
    folder(root, pixels, labels)

    def said(**given):
        with pytest.raises(InputError) as raised:
            load(path=str(root), **given)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "label_names does nothing with folders, whose names are the classes" in said(label_names=["a"])
    (root / "kind9").mkdir()
    assert "the class 'kind9' has no image in " in said()
    Image.fromarray(pixels[0, 1:]).save(root / "kind9" / "small.png")
    assert "small.png is 7 × 12 pixels, and " in (sentence := said()) and "8 × 12: images are of one size" in sentence
    (root / "kind9" / "small.png").write_bytes(b"no image")
    assert "small.png is no image that can be read" in said()
    Image.fromarray(pixels[0].astype(np.uint16)).save(root / "kind9" / "small.png")
    assert "pixels of more than 8 bits" in said()
    root = tmp_path / "parted"
    folder(root / "train", pixels, labels)
    folder(root / "test", pixels, labels)
    assert "holds sides and not classes; write them one by one, as in test: " in said()
    root = root / "train" / "kind0"
    assert "has no subfolders" in said()


# The task


def items(pixels, labels):
    return tuple(
        LabelledImage(image, f"kind{label}", f"number {index}")
        for index, (image, label) in enumerate(zip(pixels, labels, strict=True))
    )


def corpus(channels=None, **changes):
    sides = {
        part: items(*noise(count, channels=channels, seed=seed))
        for seed, (part, count) in enumerate({"train": 12, "validation": 6, "test": 3}.items())
    }
    return Corpus("images", **{**sides, **changes})


def prepared(given, patch=4):
    return prepare(given, "image_classification", 8000, 128, patch=patch)


@pytest.mark.parametrize("channels", [None, 3])
def test_what_a_model_sees(channels):
    given = corpus(channels)
    data = prepared(given)
    count = channels or 1
    assert data.tokenizer is None and data.labels == ("kind0", "kind1", "kind2")
    assert (data.images.image_size, data.images.patch_size, data.images.num_channels) == ((8, 12), 4, count)
    pixels = np.stack([item.pixels for item in given.train]).reshape(-1, count) / 255
    np.testing.assert_allclose(data.images.image_mean, pixels.mean(0), atol=1e-6)
    np.testing.assert_allclose(data.images.image_std, pixels.std(0), atol=1e-6)
    assert data.train.lengths.tolist() == [6] * 12 and data.train.label_tokens.tolist() == [1] * 12
    assert data.train.texts[4] == ("number 4", "kind1") and data.train.num_bytes == 0
    batch = data.collate([data.train[4], data.train[5]])
    assert batch["pixel_values"].shape == (2, count, 8, 12) and batch["pixel_values"].dtype == torch.float32
    expected = given.train[4].pixels.reshape(8, 12, count).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(batch["pixel_values"][0], expected, atol=1e-6)
    assert batch["labels"].tolist() == [1, 2] and batch["labels"].dtype == torch.int64
    assert "Cut 12 train images, 6 validation images, 3 test images of 8 × 12 pixels" in data.notes[-1]
    assert "into 2 × 3 patches; of the training images are kind0 4, kind1 4, kind2 4." in data.notes[-1]


def test_a_channel_that_says_nothing():
    pictures, labels = noise(6, channels=4)
    pictures[..., 3] = 255
    data = prepared(corpus(**{side: items(pictures, labels) for side in ("train", "validation", "test")}))
    assert data.images.image_std[3] == 1 and min(data.images.image_std[:3]) > 0.1


def test_some_of_the_images():
    data = prepared(corpus())
    few = part(data.train, np.array([3, 7]), np.zeros(1, np.int64))
    assert isinstance(few, Images) and len(few) == 2 and few.texts[1] == ("number 7", "kind1")
    assert np.array_equal(few[1]["pixel_values"], data.train[7]["pixel_values"]) and few[1]["labels"].tolist() == [1]
    assert few.lengths.tolist() == [6, 6]


def test_training_images_are_moved():
    given = corpus(3)
    data = prepare(given, "image_classification", 8000, 128, patch=4, shift=2)
    image = given.train[4].pixels.transpose(2, 0, 1)
    moved = [data.train[Visit(4, seed, epoch)]["pixel_values"] for seed in range(3) for epoch in range(10)]
    assert np.array_equal(moved[4], data.train[Visit(4, 0, 4)]["pixel_values"])
    assert all(each.shape == image.shape for each in moved) and len({each.tobytes() for each in moved}) > 10
    around = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="edge")
    places = [around[:, y : y + 8, x : x + 12].tobytes() for y in range(5) for x in range(5)]
    assert {each.tobytes() for each in moved} <= set(places)
    assert np.array_equal(data.train[4]["pixel_values"], image), "by itself it stays"
    assert np.array_equal(data.test[Visit(1, 0, 3)]["pixel_values"], given.test[1].pixels.transpose(2, 0, 1))
    assert part(data.train, np.array([4]), np.zeros(1, np.int64)).shift == 2
    with pytest.raises(InputError, match="task.shift 8 moves images of 8 × 12 pixels in 3 channels out of sight"):
        prepare(given, "image_classification", 8000, 128, patch=4, shift=8)


MISTAKES = {
    "no_patch": ({}, None, "needs task.patch, the side of a patch in pixels, such as 2"),
    "patch": ({}, 3, r"8 pixels high, which task.patch 3 does not divide; write 1, 2, 4"),
    "other_side": ({}, 8, r"12 pixels wide, which task.patch 8 does not divide"),
    "size": (
        {"test": items(*noise(3, width=8))},
        4,
        "number 0 of the test side has 8 × 8 pixels, and number 0 8 × 12 pixels: ",
    ),
    "colours": (
        {"validation": items(*noise(3, channels=3))},
        4,
        "8 × 12 pixels in 3 channels, and number 0 8 × 12 pixels",
    ),
    "label": ({"test": items(noise(1)[0], [7])}, 4, "the test side has the label 'kind7', and the training side only"),
    "class": ({"labels": ("kind0", "kind1", "kind2", "kind3")}, 4, "no training image has the label 'kind3'"),
    "one_class": (
        {side: items(noise(3)[0], [0, 0, 0]) for side in ("train", "validation", "test")},
        4,
        "all training images have the label 'kind0'",
    ),
    "alike": ({"train": items(np.ones((3, 8, 12), np.uint8), [0, 1, 2])}, 4, "all pixels .* are alike"),
}


@pytest.mark.parametrize("changes, patch, words", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_answered_in_one_sentence(changes, patch, words):
    with pytest.raises(InputError, match=words) as raised:
        prepared(corpus(**changes), patch)
    assert "\n" not in str(raised.value)


def test_images_and_texts_do_not_mix():
    with pytest.raises(
        InputError, match="classification needs labelled texts and the source gives images: write task.n"
    ):
        prepare(corpus(), "classification", 300, 32)
    with pytest.raises(InputError, match="the train side has no images: give more images"):
        corpus(train=())
