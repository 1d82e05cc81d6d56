from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artimuse_actor.errors import UsageError
from jobs.curate.where import MAX_CHARACTERS, parse_condition

TABLE = pa.table(
    {
        "uri": ["s3://a/1.jpg", "/b/2.PNG", None],
        "score": pa.array([70.5, 20.0, 50.0], pa.float32()),
        "width": pa.array([1200, 800, 2**31 - 1], pa.int32()),
        "height": pa.array([800, 800, None], pa.int32()),
        "good": [True, False, None],
        "odd name": [1, 2, 3],
    }
)


def _rows(text: str, table: pa.Table = TABLE) -> list[bool]:
    """For which rows a condition holds."""
    condition = parse_condition(text, table.schema)
    holds: list[bool] = condition.holds(table).to_pylist()
    return holds


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("score > 50", [True, False, False]),
        ("20 <= score < 70", [False, True, True]),
        ("score > 60 or uri is None", [True, False, True]),
        ("score > 60 or uri is null", [True, False, True]),
        ("uri is not None and not score > 60", [False, True, False]),
        ("width == height", [False, True, False]),
        ("not width == height", [True, False, False]),
        ("width > 1.4 * height", [True, False, False]),
        ("width * width > 0", [True, True, True]),
        ("width / height >= 1.5", [True, False, False]),
        ("-score < -60 and score - 10 > +0.5", None),
        ("-score < -60 and score - 10 > 0.5", [True, False, False]),
        ("width in (800, 1200)", [True, True, False]),
        ("width not in [800]", [True, False, True]),
        ("height not in {900}", [True, True, False]),
        ("uri in ('/b/2.PNG', 'x')", [False, True, False]),
        ("startswith(uri, 's3://') or endswith(lower(uri), '.png')", [True, True, False]),
        ("contains(uri, '/')", [True, True, False]),
        ("matches(uri, '[12][.]jpg$')", [True, False, False]),
        ("length(uri) > 8", [True, False, False]),
        ("abs(score - 71) < 1", [True, False, False]),
        ("good", [True, False, False]),
        ("not good", [False, True, False]),
        ("good and True", [True, False, False]),
        ("column('odd name') >= 2", [False, True, True]),
        ("  score > 50\n", [True, False, False]),
        ("matches(uri, '(x+x+)+y|jpg')", [True, False, False]),
        (r"matches(uri, '\d[.]jpg')", [True, False, False]),
        ("True", [True, True, True]),
        ("1 == 2 or 'a' == 'a'", [True, True, True]),
    ],
)
def test_a_condition_holds_where_it_is_true_and_not_where_it_is_null(text: str, holds: list[bool] | None) -> None:
    if holds is None:
        with pytest.raises(UsageError, match="not allowed"):
            _rows(text)
    else:
        assert _rows(text) == holds


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("scroe > 50", "no column 'scroe'. Did you mean score"),
        ("__import__('os').system('true')", "is not true or false"),
        ("().__class__.__bases__ == 1", "not allowed"),
        ("open('/etc/passwd') == 1", "not allowed"),
        ("score.real > 1", "not allowed"),
        ("[score for score in uri] == 1", "not allowed"),
        ("(lambda: 1)() == 1", "not allowed"),
        ("(x := 1) == 1", "not allowed"),
        ("f'{score}' == 'x'", "not allowed"),
        ("score ** 9 ** 9 ** 9 > 1", "not allowed"),
        ("score % 2 == 0", "not allowed"),
        ("score if good else width", "is not true or false"),
        ("score", "does not fit the types"),
        ("score + 1", "is not true or false"),
        ("uri > 5", "does not fit the types"),
        ("uri + 1 > 5", "does not fit the types"),
        ("'a' * 1000000000 == uri", "does not fit the types"),
        ("width in (0.5, 1)", "does not fit the types"),
        ("width in ('a', 1)", "different types"),
        ("score in width", "`in` goes with a list"),
        ("uri is 5", "`in` goes with a list"),
        ("score = 5", "is no condition"),
        ("score > 5 AND width > 5", "is no condition"),
        ("", "is no condition"),
        ("score > ", "is no condition"),
        ("score > 5; import os", "is no condition"),
        ("score > 99999999999999999999", "has a number of more than 64 bits"),
        ("score > 0x" + "f" * 9000, "has a number of more than 64 bits"),
        ("score in (1, -0x" + "f" * 9000 + ")", "has a number of more than 64 bits"),
        ("0x" + "f" * 9000, "has a number of more than 64 bits"),
        ("9 ** 9 ** 9 ** 9 > score", "not allowed"),
        ("uri == '\\ud800'", "has a lone surrogate"),
        ("matches(uri, 'a\\udfff')", "has a lone surrogate"),
        ("uri == '\ud800'", "is no condition"),
        ("matches(uri, '(((a{1000}){1000}){1000})')", "does not fit the types"),
        ("matches(uri, '" + "a{1000}" * 1400 + "')", "does not fit the types"),
        ("score > 1j", "no number or string"),
        ("score == None", "no number or string"),
        ("matches(uri, '(')", "does not fit the types"),
        ("matches(uri, uri)", "goes with a column and a string"),
        ("startswith(uri)", "goes with a column and a string"),
        ("lower(uri, uri) == 'a'", "not allowed"),
        ("score > 5\0", "is no condition"),
        ("(" * 500 + "score" + ")" * 500 + " > 1", "is no condition"),
        ("not " * 100 + "good", "inside each other"),
        ("not " * 2400 + "good", "no condition|inside each other"),
        ("-" * 9000 + "score > 1", "no condition|inside each other"),
        ("score > 1 or " * 700 + "good", "has more than 2,000 parts"),
        ("x" * (MAX_CHARACTERS + 1), "at most 10,000 characters"),
        ("score > " + "9" * 5000, "no condition|no number"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_no_condition_gets_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as error:
        _rows(text)
    assert str(error.value).startswith("--where")
    assert len(str(error.value)) < 900


@given(st.text(alphabet=st.sampled_from("score widthgood()[]{}<>=!+-*/,.'\"0159 andornotisNone:\\\n"), max_size=40))
def test_any_text_is_a_condition_or_gets_a_sentence(text: str) -> None:
    try:
        condition = parse_condition(text, TABLE.schema)
    except UsageError:
        return
    assert len(condition.holds(TABLE)) == len(TABLE)


_comparison = st.builds(
    lambda column, sign, number: f"{column} {sign} {number}",
    st.sampled_from(["a", "b"]),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    st.integers(-3, 3),
)
_condition = st.recursive(
    _comparison,
    lambda part: st.one_of(
        st.builds("({} and {})".format, part, part),
        st.builds("({} or {})".format, part, part),
        st.builds("(not {})".format, part),
    ),
    max_leaves=6,
)


@given(_condition, st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=8))
def test_without_nulls_a_condition_means_what_it_means_in_python(text: str, rows: list[tuple[int, int]]) -> None:
    table = pa.table({"a": [a for a, _ in rows], "b": [b for _, b in rows]})
    condition: Any = parse_condition(text, table.schema)
    assert condition.holds(table).to_pylist() == [eval(text, {"a": a, "b": b}) for a, b in rows]
