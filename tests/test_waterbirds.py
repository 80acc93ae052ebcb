"""Waterbirds: WILDS's layout is read as it is, and a smaller set keeps every group in its proportion."""

import csv
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from ravl_core.domains.proportions import WATERBIRDS, proportional_counts
from ravl_core.domains.waterbirds import group_counts, waterbirds

COLUMNS = ["img_id", "img_filename", "y", "split", "place", "place_filename"]
GROUPS = {(0, 0): 12, (0, 1): 3, (1, 0): 2, (1, 1): 7}  # (y, place): images of split 0; of the others one each


def colour(y, place, number):
    return 20 + 100 * y, 20 + 100 * place, 5 * number


@pytest.fixture
def folder(tmp_path):
    """A miniature in WILDS's layout; an image is twice as wide as high, white beside its central square."""
    rows = []
    for split in (0, 1, 2):
        for (y, place), count in GROUPS.items():
            for number in range(count if split == 0 else 1):
                name = f"{len(rows):03}.Bird/Bird_{len(rows)}.png"
                picture = Image.new("RGB", (80, 40), "white")
                picture.paste(colour(y, place, number), (20, 0, 60, 40))
                (tmp_path / name).parent.mkdir()
                picture.save(tmp_path / name)
                rows.append([len(rows) + 1, name, y, split, place, f"/o/ocean/{len(rows)}.jpg"])
    write(tmp_path, [rows[i] for i in np.random.default_rng(0).permutation(len(rows))])
    return tmp_path


def write(folder, rows, columns=COLUMNS):
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def read(folder):
    with open(folder / "metadata.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_split_is_what_its_rows_of_the_table_say(folder):
    for number, split in enumerate(("train", "val", "test")):
        data = waterbirds(folder, split, size=16)
        rows = [row for row in read(folder) if int(row["split"]) == number]
        assert len(data) == len(rows) and data.images.dtype == np.uint8
        assert data.labels.tolist() == [int(row["y"]) for row in rows]
        assert data.feature_present.tolist() == [row["place"] == "1" for row in rows]


def test_images_show_the_central_square_at_the_size_asked_for(folder):
    data = waterbirds(folder, "train", size=16)
    assert data.images.shape == (24, 16, 16, 3)
    for image, label, water in zip(data.images.astype(int), data.labels, data.feature_present, strict=True):
        inside = image[:, 2:-2]  # at its edges the square is blended with what is beside it
        assert (inside == image[8, 8]).all() and image[8, 8, :2].tolist() == list(colour(label, water, 0)[:2])
    assert len(np.unique(data.images, axis=0)) == 24


def test_captions_name_the_bird_and_regions_are_nine_cells(folder):
    data = waterbirds(folder, "val", size=48)
    assert data.class_names == ("landbird", "waterbird") and data.templates == ("a photo of a {}.",)
    assert set(data.captions) == {"a photo of a landbird.", "a photo of a waterbird."}
    assert all(data.class_names[label] in text for text, label in zip(data.captions, data.labels, strict=True))
    assert data.image_index.tolist() == np.repeat(np.arange(4), 9).tolist()
    assert data.boxes[:9].tolist() == [[16 * x, 16 * y, 16 * x + 16, 16 * y + 16] for y in range(3) for x in range(3)]
    assert data.shows_core is data.shows_feature is data.box_names is data.sources is None


def test_groups_are_counted_by_bird_and_place(folder):
    table = group_counts(waterbirds(folder, "train", size=8))
    assert table.columns.tolist() == ["land", "water"] and table.index.tolist() == ["landbird", "waterbird"]
    assert table.to_numpy().tolist() == [[12, 3], [2, 7]]


def test_a_smaller_set_keeps_every_group_in_its_proportion(folder):
    whole = waterbirds(folder, "train", size=8)
    for n in (4, 8, 23, 24):
        data = waterbirds(folder, "train", size=8, n=n)
        expected = proportional_counts(np.array([[12, 3], [2, 7]]), n)
        assert group_counts(data).to_numpy().tolist() == expected.tolist() and len(data) == n
        places = [int((whole.images == image).all(axis=(1, 2, 3)).nonzero()[0][0]) for image in data.images]
        assert places == sorted(set(places))  # none twice, in the order of the table
        assert (whole.labels[places] == data.labels).all()


def test_the_seed_decides_which_images_are_drawn(folder):
    drawn = [waterbirds(folder, "train", size=8, n=10, seed=seed).images.tobytes() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_only_the_images_that_are_drawn_are_read(folder):
    kept = waterbirds(folder, "train", size=8, n=10)
    for row in read(folder):
        if row["split"] == "0" and not drawn_from(kept, folder / row["img_filename"]):
            (folder / row["img_filename"]).unlink()
    assert (waterbirds(folder, "train", size=8, n=10).images == kept.images).all()


def drawn_from(data, path):
    return (data.images[:, 4, 4] == np.asarray(Image.open(path))[20, 40]).all(axis=1).any()


def test_a_missing_folder_says_where_to_get_the_data_and_how_to_lay_it_out(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*none/metadata.csv; get the data set 'waterbirds' .*WILDS"):
        waterbirds(tmp_path / "none", "train")
    with pytest.raises(FileNotFoundError, match="img_filename, y, split, place"):
        waterbirds(tmp_path, "train")


def test_an_image_that_cannot_be_read_is_named(folder):
    broken = next(row["img_filename"] for row in read(folder) if row["split"] == "2")
    (folder / broken).write_bytes(b"no image")
    with pytest.raises(ValueError, match=f"folder: {broken} cannot be read: unreadable"):
        waterbirds(folder, "test", size=8)
    (folder / broken).unlink()
    with pytest.raises(ValueError, match=f"folder: {broken} cannot be read: missing"):
        waterbirds(folder, "test", size=8)


def test_a_table_without_places_or_with_other_places_or_birds_is_refused(folder):
    rows = [list(row.values()) for row in read(folder)]
    write(folder, [row[:4] for row in rows], COLUMNS[:4])
    with pytest.raises(ValueError, match="metadata.csv has no column 'place'"):
        waterbirds(folder, "train", size=8)
    write(folder, [[*row[:2], 2, 0, *row[4:]] if row is rows[0] else row for row in rows])
    with pytest.raises(ValueError, match="metadata.csv is not as WILDS has it: other label, 2: 1"):
        waterbirds(folder, "train", size=8)
    write(folder, [[*row[:4], 3, row[5]] if row is rows[0] else row for row in rows])
    with pytest.raises(ValueError, match=r"expected 0 or 1 as place in metadata.csv, got \[3\]"):
        waterbirds(folder, ("train", "val", "test")[int(rows[0][3])], size=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "training"}, "split: expected one of 'train', 'val', 'test', got 'training'; did you mean 'train'"),
        ({"size": 0}, "size: expected an integer of 1 or more"),
        ({"n": 25}, "n: expected at most the 24 images that there are, got 25"),
        ({"n": 3}, "n: expected an integer of 4 or more, got 3"),
    ],
)
def test_what_cannot_be_had_is_named(folder, change, message):
    with pytest.raises(ValueError, match=message):
        waterbirds(**({"folder": folder, "split": "train", "size": 8} | change))


# ---- proportions ----


def test_waterbirds_proportions_of_two_thousand_images():
    counts = proportional_counts(np.array(WATERBIRDS), 2000)
    assert counts.tolist() == [[1459, 77], [23, 441]]  # 1459.02, 76.75, 23.36, 440.88 before rounding
    assert (proportional_counts(np.array(WATERBIRDS), 4795) == WATERBIRDS).all()


def test_proportions_are_kept_to_one_image_and_the_largest_remainders_are_rounded_up():
    random = np.random.default_rng(0)
    for _ in range(200):
        counts = random.integers(1, 400, 6)
        n = int(random.integers(6, counts.sum() + 1))
        shares = [Fraction(int(count * n), int(counts.sum())) for count in counts]
        expected = [int(share) for share in shares]
        for group in sorted(range(6), key=lambda g: expected[g] - shares[g])[: n - sum(expected)]:
            expected[group] += 1
        found = proportional_counts(counts, n)
        assert found.sum() == n and (found >= 1).all() and (found <= counts).all()
        if min(expected) > 0:
            assert found.tolist() == expected


def test_a_group_that_would_be_lost_keeps_one_image_of_the_largest():
    assert proportional_counts(np.array([1000, 1, 1, 500]), 12).tolist() == [6, 1, 1, 4]
    assert proportional_counts(np.array([1000, 1, 0, 500]), 3).tolist() == [1, 1, 0, 1]
    with pytest.raises(ValueError, match="n: expected an integer of 3 or more, got 2"):
        proportional_counts(np.array([1000, 1, 0, 500]), 2)
    with pytest.raises(ValueError, match="counts: expected 0 or more in each group"):
        proportional_counts(np.array([4, -1]), 2)
