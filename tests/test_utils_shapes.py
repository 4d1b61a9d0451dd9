"""The same posts, written in every shape that tools write, under any name: they are read as what they are."""

import bz2
import csv
import dataclasses
import gzip
import io
import json
import lzma
import random
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.cli import parse
from config.schema import UserError
from utils import sources
from utils.source import Source

CONFIG, _ = parse("preprocess", [])
WORDS = {
    "Latin": ["lamp", "river", "orange", "window", "quiet", "morning", "paper", "engine", "garden", "seven"],
    "German": ["Straße", "Übung", "hören", "müde", "größer", "Käse", "Blüte", "täglich", "Fluß", "schön"],
    "Russian": ["дом", "окно", "вечер", "яблоко", "поезд", "сегодня", "тихий", "весна", "город", "улица"],
    "Greek": ["σπίτι", "θάλασσα", "βιβλίο", "ήλιος", "δρόμος", "πρωί", "μήλο", "φίλος", "νύχτα", "πόλη"],
    "Arabic": ["بيت", "كتاب", "شمس", "مدينة", "نافذة", "صباح", "تفاح", "قطار", "مساء", "شارع"],
    "Hindi": ["घर", "किताब", "सूरज", "शहर", "खिड़की", "सुबह", "सेब", "रेलगाड़ी", "शाम", "गली"],
    "Chinese": list("天地人山水火风云花鸟鱼虫"),
    "Thai": ["บ้าน", "หนังสือ", "แดด", "เมือง", "เช้า", "แอปเปิล", "รถไฟ", "เย็น", "ถนน", "ดอกไม้"],
    "Korean": ["집이", "책을", "해가", "도시에", "창문을", "아침에", "사과를", "기차는", "저녁에", "거리를"],
}
DECORATIONS = [
    "",
    "!",
    ", and; so | on",
    ' "quoted" here',
    "\nand a second line",
    " 🚀",
    " #tag @name",
    " it's 5% & more",
]
FLAGS = [("True", "False"), ("t", "f"), ("1", "0"), ("yes", "no"), ("Y", "N"), ("1.0", "0.0")]
FLAGS += [("TRUE", "NA"), ("true", r"\N"), ("1", "-1"), ("WAHR", "FALSCH"), ("True", "[]")]


@dataclasses.dataclass(frozen=True)
class Row:
    """A post as the test knows it."""

    text: str
    day: datetime
    retweet: bool
    likes: int
    language: str


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    """Some posts: different texts of one script, each with a day, a retweet mark, likes and a language."""
    script = draw(st.sampled_from(sorted(WORDS)))
    rng = random.Random(draw(st.integers(0, 10_000)))
    count = draw(st.integers(12, 40))
    found = []
    for i in range(count):
        words = rng.choices(WORDS[script], k=rng.randint(6, 12))
        text = f"{i} " + ("" if script in ("Chinese", "Thai") else " ").join(words) + rng.choice(DECORATIONS)
        day = datetime(2021, rng.randint(1, 12), rng.randint(1, 28), rng.randint(0, 23), rng.randint(0, 59), tzinfo=UTC)
        found.append(Row(text, day, rng.random() < 0.3, rng.randint(0, 5_000_000), rng.choice(["en", "no", "de"])))
    return found


def read(path: Path, **data: Any) -> Source:
    return sources.read_posts(str(path), dataclasses.replace(CONFIG.data, **data))


def check(source: Source, expected: list[Row], *, fields: bool = True) -> None:
    """The source gives these posts, and of each what is known."""
    posts = list(source.posts)
    assert [post.text for post in posts] == [row.text for row in expected], source.notes
    assert source.rows == len(expected)
    if fields:
        assert [post.date for post in posts] == [row.day.timestamp() for row in expected]
        assert [post.retweet for post in posts] == [row.retweet for row in expected]
        assert [post.likes for post in posts] == [row.likes for row in expected]
        assert [post.language for post in posts] == [row.language for row in expected]
        assert not source.unread


DATES: list[Callable[[datetime], str]] = [
    datetime.isoformat,
    lambda d: d.strftime("%Y-%m-%d %H:%M:%S"),
    lambda d: d.strftime("%a %b %d %H:%M:%S +0000 %Y"),
    lambda d: d.strftime("%a, %d %b %Y %H:%M:%S GMT"),
    lambda d: d.strftime("%b %d, %Y · %I:%M %p UTC"),
    lambda d: d.strftime("%Y/%m/%d %H:%M"),
    lambda d: d.strftime("%Y-%m-%d %H:%M:%S +0000"),
    lambda d: str(int(d.timestamp())),
    lambda d: str(1000 * int(d.timestamp())),
]
COUNTS: list[Callable[[int], str]] = [str, "{:,}".format, lambda n: f"{n:,}".replace(",", "."), "{}.0".format]
NAMES = {
    "text": ["text", "Text", "full_text", "fullText", "tweet_text", "Tweet text", "rawContent", "Body", "MESSAGE"],
    "date": ["date", "created_at", "createdAt", "Created At", "timestamp", "Datetime"],
    "retweet": ["is_retweet", "isRetweet", "Is Retweet", "retweet"],
    "likes": ["likes", "favorite_count", "likeCount", "Like Count", "nlikes", "favorites"],
    "language": ["lang", "Language", "tweet_lang"],
}
NAMING = st.fixed_dictionaries({role: st.sampled_from(names) for role, names in NAMES.items()})


def cells(row: Row, day: str, likes: str, flags: tuple[str, str]) -> dict[str, str]:
    """A post as cells of a table, by role."""
    retweet = flags[0] if row.retweet else flags[1]
    note = "The same long line about somebody, in every single row."
    return {"text": row.text, "date": day, "retweet": retweet, "likes": likes, "language": row.language, "note": note}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    rows(),
    NAMING,
    st.permutations(["text", "date", "retweet", "likes", "language", "note"]),
    st.sampled_from(DATES),
    st.sampled_from(COUNTS),
    st.sampled_from(FLAGS),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["plain", "quoted", "backslash"]),
    st.sampled_from([[], ["sep"], ["# exported by a tool", "# 2021"], ["Posts of somebody", ""]]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"]),
    st.sampled_from(["t.csv", "t.tsv", "t.txt", "t", "t.dat"]),
)
def test_tables(
    tmp_path: Path,
    posts: list[Row],
    naming: dict[str, str],
    order: list[str],
    write_date: Callable[[datetime], str],
    count: Callable[[int], str],
    flags: tuple[str, str],
    delimiter: str,
    quoting: str,
    before: list[str],
    encoding: str,
    name: str,
) -> None:
    names = {**naming, "note": "user_description"}
    out = io.StringIO()
    style: dict[str, Any] = {"quoting": csv.QUOTE_ALL} if quoting == "quoted" else {}
    if quoting == "backslash":
        style = {"quoting": csv.QUOTE_ALL, "doublequote": False, "escapechar": "\\"}
    writer = csv.writer(out, delimiter=delimiter, **style)
    writer.writerow([names[role] for role in order])
    for row in posts:
        known = cells(row, write_date(row.day), count(row.likes), flags)
        writer.writerow([known[role] for role in order])
    start = "".join(f"sep={delimiter}\r\n" if line == "sep" else f"{line}\r\n" for line in before)
    path = tmp_path / name
    path.write_bytes((start + out.getvalue()).encode(encoding))
    source = read(path)
    assert (source.kind, source.column) == ("csv", names["text"])
    check(source, posts)


@pytest.mark.parametrize("day_first", [True, False])
def test_the_order_of_day_and_month_is_found(tmp_path: Path, day_first: bool) -> None:
    days = [datetime(2021, 3, n, tzinfo=UTC) for n in range(1, 29)] * 9
    written = [f"{d.day}/{d.month}/{d.year}" if day_first else f"{d.month}/{d.day}/{d.year}" for d in sorted(days)]
    lines = [f"{day},This is post number {i} of this file" for i, day in enumerate(written)]
    (tmp_path / "t.csv").write_text("\n".join(["date,text", *lines]), encoding="utf-8")
    source = read(tmp_path / "t.csv")
    assert [post.date for post in source.posts] == [d.timestamp() for d in sorted(days)] and not source.notes
    early = [line for line, d in zip(lines, sorted(days), strict=True) if d.day <= 12]
    (tmp_path / "t.csv").write_text("\n".join(["date,text", *early]), encoding="utf-8")
    source = read(tmp_path / "t.csv")
    assert [post.date for post in source.posts] == [d.timestamp() for d in sorted(days) if d.day <= 12]
    assert "no number above 12 says which" in source.notes[0]


def as_object(row: Row, naming: dict[str, str], write_date: Callable[[datetime], str]) -> dict[str, Any]:
    """A post as a JSON object."""
    known = {"text": row.text, "retweet": row.retweet, "likes": row.likes, "language": row.language}
    known |= {"date": write_date(row.day)}
    return {"id": 7, **{naming[role]: known[role] for role in NAMES}, "user": {"name": "x", "lang": "xx"}}


def dump(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=indent is None, indent=indent)


def pages(objects: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    return [{key: objects[i : i + 5], "meta": {"result_count": 5}, "status": "ok"} for i in range(0, len(objects), 5)]


SHAPES: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "list": dump,
    "pretty list": lambda objects: dump(objects, 2),
    "lines": lambda objects: "\n".join(map(dump, objects)),
    "lines with commas": lambda objects: ",\n".join(map(dump, objects)),
    "one after another": lambda objects: "\n".join(dump(entry, 1) for entry in objects),
    "wrapped": lambda objects: dump([{"tweet": entry} for entry in objects]),
    "a page": lambda objects: dump({"data": objects, "includes": {"users": [{"id": 1}]}}),
    "a pretty page": lambda objects: dump({"tweets": objects, "next": None}, 4),
    "pages": lambda objects: "\n".join(map(dump, pages(objects, "data"))),
    "a list of pages": lambda objects: dump(pages(objects, "statuses")),
    "columns of pandas": lambda objects: dump({k: {str(i): o[k] for i, o in enumerate(objects)} for k in objects[0]}),
    "index of pandas": lambda objects: dump({str(i): o for i, o in enumerate(objects)}),
    "table of pandas": lambda objects: dump({"schema": {"fields": []}, "data": objects}),
    "split of pandas": lambda objects: dump(
        {"columns": list(objects[0]), "index": list(range(len(objects))), "data": [list(o.values()) for o in objects]}
    ),
    "lists of columns": lambda objects: dump({key: [o[key] for o in objects] for key in objects[0]}),
    "lists one after another": lambda objects: "\n".join(
        dump(objects[i : i + 5], 1) for i in range(0, len(objects), 5)
    ),
    "under their years": lambda objects: dump({"2020": objects[:6], "2021": objects[6:]}),
    "deep inside": lambda objects: dump({"result": {"timeline": {"tweets": [{"legacy": entry} for entry in objects]}}}),
    "under their ids": lambda objects: dump({f"id{i}": o for i, o in enumerate(objects)}, 1),
}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    rows(),
    NAMING,
    st.sampled_from(DATES),
    st.sampled_from(sorted(SHAPES)),
    st.sampled_from(["t.json", "t.jsonl", "t.ndjson", "t.txt", "t", "t.csv"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_json(
    tmp_path: Path,
    posts: list[Row],
    naming: dict[str, str],
    write_date: Callable[[datetime], str],
    shape: str,
    name: str,
    encoding: str,
) -> None:
    path = tmp_path / name
    path.write_bytes(SHAPES[shape]([as_object(row, naming, write_date) for row in posts]).encode(encoding))
    source = read(path)
    assert source.kind in ("json", "jsonl") and source.column == naming["text"]
    check(source, posts)


@pytest.mark.parametrize(
    "lines",
    [
        ["Text, lies and a lamp", "And then, as always, more", "No comma here", "Well, so it goes"],
        ["Post, comment, tweet: all the same", "to me", "Message in a bottle"],
        ["Tweet; tweet; tweet", "said the bird", "and was gone"],
        [f"{hour}:30 lunch, as ever, with the lamp" for hour in range(9)],
        ["one, two, three", "four, five, six", "seven, eight, nine"],
    ],
)
def test_sentences_with_commas_are_no_table(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "t.txt").write_text("\n".join(["", *lines]), encoding="utf-8")
    source = read(tmp_path / "t.txt")
    assert source.kind == "txt" and [post.text for post in source.posts] == lines


def test_a_table_of_sentences_full_of_commas_is_a_table(tmp_path: Path) -> None:
    texts = [f"Well, {i}, lamps, rivers, and, so, on, forever" for i in range(20)]
    for quote, header in (('"', "text,number"), ('"', "what was said,number"), ("", "text,number")):
        lines = [f"{quote}{text}{quote},{i}" for i, text in enumerate(texts)]
        if not quote:
            lines = [f"{i},plain words" for i in range(60)] + [f"{i},{text}" for i, text in enumerate(texts)]
            header = "number,text"
        (tmp_path / "t.txt").write_text("\n".join([header, *lines]), encoding="utf-8")
        source = read(tmp_path / "t.txt")
        assert source.kind == "csv" and [post.text for post in source.posts][-20:] == texts


TEXT_SHAPES: dict[str, Callable[[list[str]], str]] = {
    "list": json.dumps,
    "lines": lambda texts: "\n".join(map(json.dumps, texts)),
    "under their ids": lambda texts: json.dumps({f"id{i}": text for i, text in enumerate(texts)}),
    "page": lambda texts: json.dumps({"tweets": texts}),
    "rows": lambda texts: "\n".join(json.dumps([i, text, "2021-01-01"]) for i, text in enumerate(texts)),
    "list of rows": lambda texts: json.dumps([[i, text, "2021-01-01"] for i, text in enumerate(texts)]),
}


@pytest.mark.parametrize("shape", TEXT_SHAPES)
def test_json_of_texts_alone(tmp_path: Path, shape: str) -> None:
    texts = [f"The lamp number {i} is {'very ' * i}quiet, and 'so' \"on\" [x]" for i in range(12)]
    path = tmp_path / "t.jsonl"
    path.write_text(TEXT_SHAPES[shape](texts), encoding="utf-8")
    assert [post.text for post in read(path).posts] == texts


def test_what_follows_a_list_is_not_lost_in_silence(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('[{"text": "hello"}]\nmore of it', encoding="utf-8")
    with pytest.raises(UserError, match=r"t\.json goes on after its list"):
        list(read(tmp_path / "t.json").posts)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows(), st.sampled_from(["t.txt", "t", "t.md", "t.dat"]), st.booleans())
def test_plain_text_stays_plain_text(tmp_path: Path, posts: list[Row], name: str, blank: bool) -> None:
    texts = [row.text if blank else row.text.replace("\n", " ") for row in posts]
    path = tmp_path / name
    path.write_text(("\n\n" if blank else "\n").join(texts), encoding="utf-8")
    source = read(path)
    assert source.kind == "txt" and [post.text for post in source.posts] == texts


PACKERS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("inner", ["posts.csv", "posts.json", "posts.jsonl"])
@pytest.mark.parametrize("packer", [*PACKERS, ".zip", "nameless"])
def test_packed_files(tmp_path: Path, inner: str, packer: str) -> None:
    posts = [Row(f"The lamp number {i} is quiet", datetime(2021, 1, 1, tzinfo=UTC), False, i, "en") for i in range(20)]
    objects = [as_object(row, {role: names[0] for role, names in NAMES.items()}, datetime.isoformat) for row in posts]
    content = "\n".join(map(dump, objects)) if inner != "posts.csv" else ""
    if inner == "posts.json":
        content = dump(objects)
    elif not content:
        content = "text,date,is_retweet,likes,lang\n"
        content += "".join(f"{r.text},{r.day.isoformat()},f,{r.likes},en\n" for r in posts)
    path = tmp_path / (inner + packer)
    if packer in PACKERS:
        path.write_bytes(PACKERS[packer](content.encode()))
    else:
        path = tmp_path / ("archive.zip" if packer == ".zip" else "download")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"folder/{inner}", content)
            archive.writestr("README.txt", "What this is, and where it is from.\n")
            archive.writestr("__MACOSX/._posts.csv", b"\x00\x01")
    source = read(path)
    check(source, posts)
    assert source.path == str(path)


def test_a_zip_with_several_tables_names_them(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one.csv", "text\nhello\n")
        archive.writestr("two.csv", "text\nhello\n")
    with pytest.raises(UserError, match=r"one.csv, two.csv\): unpack it, and give the file"):
        read(tmp_path / "a.zip")
