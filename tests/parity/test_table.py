"""The page in docs tells of every number file, and every file of where it comes from."""

import pytest
from replay import NUMBERS, Numbers
from table import FILES, PAGE, ROWS

NAMES = sorted(file.stem for file in NUMBERS.glob("*.safetensors"))


@pytest.mark.parametrize("name", NAMES)
def test_a_number_file_names_its_source_and_is_in_the_table(name):
    about, page = Numbers(name).about, PAGE.read_text()
    assert len(about["commit"]) == 40
    assert about["function"]
    told = {FILES.get(row, row) for _, _, names in ROWS for row in names} | {"schedule"}
    assert name in told
    assert f"{about['repository']} {about['commit'][:7]}" in page


def test_the_number_files_stay_small():
    assert sum(file.stat().st_size for file in NUMBERS.iterdir()) < 2_000_000
