"""containerd's filter language: what passes, what is refused and where."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlopd.core.filters import Adaptor, in_map, parse
from orlopd.plugin.errors import InvalidArgument

THING = {
    "name": "alpine",
    "topic": "/tasks/exit",
    "namespace": "moby",
    "empty": "",
    "labels": {
        "role": "web",
        "com.example/team": "storage",
        "with space": "1",
        "bare": "yes",
        "path": "a\\b",
    },
}


def adapt(thing: dict[str, object]) -> Adaptor:
    def field(path: tuple[str, ...]) -> str | None:
        if path[0] == "labels":
            labels = thing["labels"]
            assert isinstance(labels, dict)
            return in_map(path[1:], labels)
        value = thing.get(path[0])
        return value if isinstance(value, str) else None

    return field


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        ([], True),
        ([""], True),
        (["name"], True),
        (["nothing"], False),
        (["name==alpine"], True),
        (["name == alpine"], True),
        (["name==debian"], False),
        (["name!=debian"], True),
        (["nothing==x"], False),
        (["nothing!=x"], True),
        (['nothing==""'], False),
        (['empty==""'], True),
        (["name~=^al"], True),
        (["name~=pine$"], True),
        (["name~=^pine"], False),
        (["nothing~=^$"], True),
        (["labels.role"], True),
        (["labels.role==web"], True),
        (['labels."com.example/team"==storage'], True),
        (["labels.com"], False),
        (['labels."with space"==1'], True),
        (['labels.path=="a\\\\b"'], True),
        (["name==alpine,labels.bare"], True),
        (["name==alpine, labels.bare"], True),
        (["name==alpine,labels.gone"], False),
        (["name==debian", "labels.bare"], True),
        (["name==debian", "labels.gone"], False),
        (["namespace==moby,topic~=|^/tasks/|"], True),
        (["namespace==moby,topic~=|^/images/|"], False),
        (["topic~=/^\\/tasks\\/exit$/"], True),
        (['topic~="^/tasks/(exit|oom)$"'], True),
        (['name=="\\x61lp\\u0069n\\U00000065"'], True),
        (['name=="\\141lpine"'], True),
        (["labels.bare==yes,labels.role~=w.b"], True),
        (["name==a[l]p"], False),
    ],
)
def test_a_filter_passes_what_containerd_passes(filters: list[str], passes: bool) -> None:
    assert parse(filters).match(adapt(THING)) is passes


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("name=alpine", 5),
        ("name===alpine", 5),
        ("name=~alpine", 5),
        ("name==", 7),
        ("name==a,", 9),
        ("name==a b", 8),
        (",name", 1),
        ("name..x", 6),
        ("name .x", 6),
        ("==x", 1),
        ("name==/a/", 7),
        ("name==|a|", 7),
        ('name=="a', 7),
        ('name=="a"b', 10),
        ('name=="\\q"', 8),
        ('name=="\\x6"', 8),
        ('name=="\\777"', 8),
        ('name=="\\uD8"', 8),
        ("topic~=|\\.x|", 9),
        ("topic~=(", 8),
        ("topic~=a++", 8),
        ("na\0me", 3),
        ("name== =x", 8),
    ],
)
def test_a_malformed_filter_is_refused_at_its_column(text: str, column: int) -> None:
    with pytest.raises(InvalidArgument, match=f"column {column}:"):
        parse([text])


def test_one_malformed_filter_among_good_ones_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        parse(["", "name=="])


def test_a_regular_expression_cannot_hold_up_the_daemon() -> None:
    wanted = parse(["name~=^(a+)+$"])
    assert not wanted.match(lambda _: "a" * 5000 + "b")


def quote(text: str, mark: str = '"') -> str:
    return mark + text.replace("\\", "\\\\").replace(mark, "\\" + mark).replace("\n", "\\n") + mark


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
fields = st.from_regex(r"[A-Za-z0-9_]{1,6}", fullmatch=True)
plain = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,7}", fullmatch=True)
selectors = st.tuples(
    st.lists(st.one_of(fields, texts.filter(bool)), min_size=1, max_size=3),
    st.sampled_from(["", "==", "!="]),
    st.one_of(plain, texts),
)


@given(
    st.lists(st.lists(selectors, min_size=1, max_size=3), min_size=1, max_size=3),
    st.dictionaries(st.text(max_size=6), texts, max_size=4),
)
def test_what_is_written_is_what_is_asked(
    filters: list[list[tuple[list[str], str, str]]], known: dict[str, str]
) -> None:
    def render(path: list[str], operator: str, value: str) -> str:
        names = [
            each if each.isascii() and each.replace("_", "a").isalnum() else quote(each) for each in path
        ]
        return ".".join(names) + operator + (quote(value) if operator else "")

    def holds(path: list[str], operator: str, value: str) -> bool:
        found = known.get(".".join(path))
        if not operator:
            return found is not None
        return found == value if operator == "==" else (found or "") != value

    written = [",".join(render(*each) for each in every) for every in filters]
    expected = any(all(holds(*each) for each in every) for every in filters)
    assert parse(written).match(lambda path: known.get(".".join(path))) is expected


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        parse([text]).match(lambda _: None)
