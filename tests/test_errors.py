"""common/base/errors.py: the wording of messages."""

import pytest

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
