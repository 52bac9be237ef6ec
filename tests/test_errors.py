"""common/base/errors.py: the wording of messages."""

import sys

import pytest

from common.base.command import guarded
from common.base.errors import UserError, first_line, need, suggestion


def test_the_first_line_of_a_foreign_error() -> None:
    assert first_line(ValueError("\n one\ntwo")) == "one"
    assert first_line(ValueError()) == first_line(ValueError(" \n")) == "ValueError"


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    need("export", "json", "os.path")
    with pytest.raises(UserError) as error:
        need("serve", "json", "no_such_module", flag="--serve")
    assert str(error.value) == (
        "--serve: No module named 'no_such_module'; pip install '.[serve]' brings it"
    )
    with pytest.raises(UserError, match="^No module named"):
        need("serve", "no_such_module")


def test_the_nearest_name_is_suggested_if_there_is_one() -> None:
    assert suggestion("glases", ("path", "glasses")) == "; did you mean glasses?"
    assert suggestion("x", ("path", "glasses")) == ""


def test_control_codes_of_a_file_are_shown_and_not_obeyed(capfd: pytest.CaptureFixture) -> None:
    """In whatever a command prints: a card, a table, a name, another library's error."""

    def command() -> None:
        print("a card \x1b[31mred\x1b[0m, \x9b2J, \u202egnp.\t한국어 é 😀")
        sys.stderr.write("a bar\r")
        raise UserError("\x1b]0;title\x07 line 1\rover it\nline 2")

    assert guarded(command) == 2
    out, err = capfd.readouterr()
    assert out == "a card \\x1b[31mred\\x1b[0m, \\x9b2J, \\u202egnp.\t한국어 é 😀\n"
    assert err == "a bar\rerror: \\x1b]0;title\\x07 line 1\\rover it\nline 2\n"
    print("\x1b[0m")
    assert capfd.readouterr().out == "\x1b[0m\n", "only while a command runs"
