"""Options of commands and methods: fields of a dataclass, their help, their checks."""

import argparse
import dataclasses
import math

import pytest

from fastrecon.options import Interval, add_options, check, given, make, number, option


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = option("share", within="(0, 1]", type=float)
    sizes: tuple[int, ...] = option("sides", (1, 2), within="[1, 9]", type=int, nargs="+")
    noise: float | None = option("deviation", None, within="[0, 1e3]", type=float, of="simulate")
    limit: float = option("any number", 2.5, type=float)
    fast: bool = option("whether", False)
    kind: str = option("of mask", "radial", choices=("radial", "uniform"))
    name: str = option("of the file", "", file_name=True)
    note: str = option("100% free", "")

    def __post_init__(self):
        check(self, "toy")


def parsed(*words, **options):
    parser = argparse.ArgumentParser()
    add_options(parser, Config, **options)
    return given(parser.parse_args(words), Config)


def test_intervals():
    unit, share = Interval("[1, 1e9]"), Interval("(0, 1)")
    assert [v in unit for v in (0, 1, 10**9, 10**9 + 1, math.inf, math.nan)] == [False, True, True, False, False, False]
    assert [v in share for v in (0, 1e-300, 0.5, 1, math.nan)] == [False, True, True, False, False]


def test_what_the_command_line_names_is_given_and_nothing_else():
    assert parsed() == {}
    assert parsed("--rate", "0.5", "--fast", "--sizes", "3", "4") == {"rate": 0.5, "fast": True, "sizes": [3, 4]}
    assert parsed("--no-fast", "--noise", "2") == {"fast": False, "noise": 2.0}
    with pytest.raises(SystemExit):
        parsed("--rate", "0.5", without=("rate",))


def test_help_tells_range_and_default():
    parser = argparse.ArgumentParser()
    add_options(parser, Config, group="toys")
    text = " ".join(parser.format_help().split())
    assert "toys:" in text
    for told in ("share (in (0, 1])", "sides (in [1, 9]; default: 1 2)", "deviation (in [0, 1e3])", "100% free",
                 "any number (default: 2.5)", "of mask (default: radial)"):  # fmt: skip
        assert told in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 2.0}, "toy: --rate: expected a number in (0, 1], got 2.0"),
        ({"rate": math.nan}, "toy: --rate: expected a number in (0, 1], got nan"),
        ({"rate": "0.5"}, "toy: --rate: expected a number in (0, 1], got '0.5'"),
        ({"rate": None}, "toy: --rate: expected a number in (0, 1], got None"),
        ({"sizes": []}, "toy: --sizes: expected an integer each in [1, 9], got []"),
        ({"sizes": [1.5]}, "toy: --sizes: expected an integer each in [1, 9], got [1.5]"),
        ({"noise": -1}, "toy: --noise: expected a number in [0, 1e3], got -1"),
        ({"limit": math.inf}, "toy: --limit: expected a number, got inf"),
        ({"fast": 1}, "toy: --fast: expected true or false, got 1"),
        ({"kind": "odd"}, "toy: --kind: expected one of radial, uniform, got 'odd'"),
        ({"name": "../x"}, "toy: --name: expected letters, digits and . _ -, at most 100"),
        ({"note": 3}, "toy: --note: expected text, got 3"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(changes, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        Config(**{"rate": 0.5} | changes)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_what_has_no_default_is_asked_for():
    assert make(Config, {"rate": 1}, "toy") == Config(1)
    assert Config(0.5, noise=None).noise is None
    with pytest.raises(ValueError, match=r"^toy: --rate: expected share, got none$"):
        make(Config, {}, "toy")


def test_numbers_that_no_configuration_holds():
    assert number(int, "[1, 3]")("2") == 2
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected an integer in \[1, 3\], got 4"):
        number(int, "[1, 3]")("4")
