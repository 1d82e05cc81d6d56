from __future__ import annotations

import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artimuse_actor.errors import UsageError
from jobs.curate.where import MACROS, MAX_CHARACTERS, columns_sql, parse_condition
from jobs.store.database import open_database

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
    with open_database() as database:
        for macro in MACROS:
            database.run(macro)
        database.add_rows("rows", table)
        columns = columns_sql(table.schema, condition.names)
        found = database.rows(f"SELECT coalesce({condition.sql}, false) FROM (SELECT {columns}0 FROM rows)")
        return [holds for (holds,) in found]


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("score > 50", [True, False, False]),
        ("SCORE > 50 -- the better half", [True, False, False]),
        ("score BETWEEN 20 AND 69", [False, True, True]),
        ("score > 60 OR uri IS NULL", [True, False, True]),
        ("uri is not null and not score > 60", [False, True, False]),
        ("width == height", [False, True, False]),
        ("not width = height", [True, False, False]),
        ("width <> height", [True, False, False]),
        ("width > 1.4 * height", [True, False, False]),
        ("width * width > 0", [True, True, True]),
        ("width / height >= 1.5", [True, False, False]),
        ("score % 2 = 0", [False, True, True]),
        ("-score < -60 and score - 10 > +0.5", [True, False, False]),
        ("width in (800, 1200)", [True, True, False]),
        ("width not in (800)", [True, False, True]),
        ("uri in ('/b/2.PNG', 'x')", [False, True, False]),
        ("startswith(uri, 's3://') or endswith(lower(uri), '.png')", [True, True, False]),
        ("starts_with(uri, 's3://') or uri ilike '%.png'", [True, True, False]),
        ("contains(uri, '/')", [True, True, False]),
        ("matches(uri, '[12][.]jpg$')", [True, False, False]),
        ("length(uri) > 8", [True, False, False]),
        ("abs(score - 71) < 1", [True, False, False]),
        ("good", [True, False, False]),
        ("not good", [False, True, False]),
        ("good and True", [True, False, False]),
        ('"odd name" >= 2', [False, True, True]),
        ("CASE WHEN good THEN width > 1000 ELSE score > 40 END", [True, False, True]),
        ("score::INTEGER = 70", [True, False, False]),
        ("list_contains([70.5, 20], score)", [True, True, False]),
        ("  score > 50\n", [True, False, False]),
        ("matches(uri, '(x+x+)+y|jpg')", [True, False, False]),
        (r"matches(uri, '\d[.]jpg')", [True, False, False]),
        ("True", [True, True, True]),
        ("1 == 2 or 'a' == 'a'", [True, True, True]),
        ("(" * 200 + "score" + ")" * 200 + " > 60", [True, False, False]),
    ],
    ids=lambda text: text[:30] if isinstance(text, str) else "",
)
def test_a_condition_holds_where_it_is_true_and_not_where_it_is_null(text: str, holds: list[bool]) -> None:
    assert _rows(text) == holds


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("scroe > 50", "no column 'scroe'. Did you mean score"),
        ("uri is None", "None is NULL: uri IS NULL"),
        ("20 <= score < 70", "Chained comparisons are not supported, use AND"),
        ("column('odd name') >= 2", "stands in double quotes"),
        ("height not in {900}", "round brackets"),
        ('uri == "s3://a/1.jpg"', "Strings stand in single quotes"),
        ("uri == 'it\\'s'", "is doubled"),
        ("score", "is not true or false, but DOUBLE"),
        ("uri > 5", "Cannot compare values of type VARCHAR"),
        ("width in ('a', 1)", "Could not convert string 'a'"),
        ("matches(uri, '(')", "missing )"),
        ("matches(uri, '(((a{1000}){1000}){1000})')", "invalid repetition size"),
        ("", "is no condition"),
        ("score > ", "is no condition"),
        ("score > 5; select 1", "is not one condition"),
        ("score > 5; drop table scores", "is no condition"),
        ("score > 5, width > 5", "is not one condition"),
        ("score > 5 as good", "is not one condition"),
        ("distinct good", "is not one condition"),
        ("good limit 1", "is not one condition"),
        ("good from nulls", "is not one condition"),
        ("good union select true", "is not one condition"),
        ("good) or (true", "is no condition"),
        ("*", "star is not allowed"),
        ("score > (select 1)", "subquery is not allowed"),
        ("uri in (select current_setting('home_directory'))", "subquery is not allowed"),
        ("exists (from read_text('/etc/passwd'))", "subquery is not allowed"),
        ("row_number() over () < 5", "window is not allowed"),
        ("score > $1", "parameter is not allowed"),
        ("max(score) > 5", "aggregate"),
        ("random() < 0.5", "random does not give the same answer every time"),
        ("now() > '2020-01-01'::TIMESTAMP", "now does not give the same answer every time"),
        ("current_setting('threads') = 5", "current_setting does not give the same answer"),
        ("getenv('HOME') = 'x'", "does not exist"),
        ("len(range(1000000000)) > score", "takes more memory than it may"),
        ("uri == '\ud800'", "a character that no text has"),
        ("score > 5\0", "a character that no text has"),
        ("not " * 2400 + "good", "is no condition"),
        ("-" * 9000 + "score > 1", "is no condition"),
        ("x" * (MAX_CHARACTERS + 1), "at most 10,000 characters"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_no_condition_gets_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)) as error:
        _rows(text)
    assert str(error.value).startswith("--where")
    assert len(str(error.value)) < 900


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.text(alphabet=st.sampled_from("score widthgood()[]{}<>=!+-*/,.'\"0159 andornotisNULL:\\\n;"), max_size=40))
def test_any_text_is_a_condition_or_gets_a_sentence(text: str) -> None:
    try:
        rows = _rows(text)
    except UsageError:
        return
    assert len(rows) == len(TABLE)


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


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(_condition, st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=8))
def test_without_nulls_a_condition_means_what_it_means_in_python(text: str, rows: list[tuple[int, int]]) -> None:
    table = pa.table({"a": [a for a, _ in rows], "b": [b for _, b in rows]})
    assert _rows(text, table) == [eval(text, {"a": a, "b": b}) for a, b in rows]
