"""Recalls as text, by hand."""

from miniclip.metrics import joined_recalls, recall_keys, recall_line, recall_table

METRICS = {
    **dict(zip(recall_keys(), (12.04, 34.5, 56.0, 7.0, 8.0, 100.0), strict=True)),
    "i2t_median_rank": 9.0,
    "t2i_median_rank": 2.5,
    "rsum": 217.54,
}
RECORD = {f"val/{key}": value for key, value in METRICS.items()}


def test_keys_are_the_six_whose_sum_is_rsum() -> None:
    assert recall_keys() == ["i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10"]


def test_a_direction_and_both_in_one_line() -> None:
    assert joined_recalls(METRICS, "i2t") == "12.0/34.5/56.0"
    line = "image to text 12.0/34.5/56.0  text to image 7.0/8.0/100.0  rsum 217.5"
    assert recall_line(METRICS) == recall_line(RECORD, prefix="val/") == line


def test_a_table_with_a_row_per_direction() -> None:
    assert recall_table(RECORD, prefix="val/") == [
        "                         R@1          R@5         R@10  median rank",
        "image to text           12.0         34.5         56.0            9",
        "text to image            7.0          8.0        100.0          2.5",
    ]


def test_intervals_stand_in_brackets_and_columns_stay_aligned() -> None:
    intervals = dict.fromkeys(recall_keys(), (1.0, 99.96))
    lines = recall_table(METRICS, intervals=intervals)
    assert "12.0 (1.0 to 100.0)" in lines[1] and lines[1].endswith("9")
    assert len({len(line) for line in lines}) == 1
