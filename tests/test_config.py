"""Settings and the command line: one place for each default, clear lines for what is wrong, light help."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from config.cli import COMMANDS, CONFIG_FILE, parse, run_command, settings
from config.schema import SECTIONS, DataConfig, UserError
from model.checkpoint import defaults

ROOT = Path(__file__).parents[1]


def test_yaml_and_dataclasses_have_the_same_keys_and_every_key_is_explained() -> None:
    written = yaml.safe_load(CONFIG_FILE.read_text(encoding="utf-8"))
    assert {name: sorted(values) for name, values in written.items()} == {
        name: sorted(field.name for field in fields(kind)) for name, kind in SECTIONS.items()
    }
    explained = settings()
    keys = {f"{section}.{key}" for section, values in written.items() for key in values}
    assert keys == set(explained) and all(comment.strip() for _, comment in explained.values())
    assert written == parse("train", [])[0].to_dict() == defaults()


def test_precedence_is_file_then_config_then_flags(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("train: {epochs: 3, batch_size: 5}\n", encoding="utf-8")
    config, _ = parse("train", ["--config", str(mine), "--train.batch_size", "7"])
    default, _ = parse("train", [])
    assert (config.train.epochs, config.train.batch_size) == (3, 7)
    assert config.model == default.model and default.train.epochs != 3


def test_numbers_may_be_written_as_whole_numbers() -> None:
    assert parse("train", ["--train.weight_decay", "1"])[0].train.weight_decay == 1.0


def test_several_paths_can_be_given() -> None:
    assert parse("preprocess", ["--data.path", "a.csv"])[0].data.path == "a.csv"
    assert parse("preprocess", ["--data.path", "[a.csv, b.csv]"])[0].data.path == ["a.csv", "b.csv"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train.epocs", "3"], "unknown setting train.epocs: did you mean train.epochs?"),
        (["--train.epochs", "many"], "train.epochs is 'many': give a whole number"),
        (["--train.epochs", "1.5"], "train.epochs is '1.5': give a whole number"),
        (["--train.epochs", "0"], "train.epochs is 0: give 1 or more"),
        (["--model.n_embd", "130"], "model.n_embd is 130: give a multiple of model.n_head (4)"),
        (["--serve.api_key="], "serve.api_key is empty: give a text, or leave the flag out"),  # null is a text there
        (["--data.path="], "data.path is empty: give a text or a list such as [a, b], or leave the flag out"),
        (["--model.activation", "tanh"], "model.activation is 'tanh': give gelu or relu"),
        (["--train.resume", "maybe"], "train.resume is 'maybe': give true or false"),
        (["--train.resume"], "--train.resume needs a value: give true or false"),
        (["--data.path", "--train.epochs", "3"], "--data.path needs a value"),
        (["--data.path", ""], "data.path is empty: give a text"),
        (["--serve.api_key="], "serve.api_key is empty"),
        (["--serve.api_key", "  "], "serve.api_key is '  ': give a secret"),
        (["--distill.weights", "[7, x]"], "distill.weights is 'x': give a list such as [1, 2] or null"),
        (["-n", "3"], "unknown setting n"),
        (["--epochs", "3"], "unknown setting epochs: did you mean train.epochs?"),
        (["--temperature", "1"], "unknown setting temperature: did you mean generate.temperature?"),
        (["--generate.temperature", "hot"], "generate.temperature is 'hot': give a number, such as 0.8"),
        (["--json"], "unknown setting json"),
        (["--model.dropout", "1"], "model.dropout is 1.0"),
        (["--data.val_fraction", "2"], "data.val_fraction is 2.0"),
        (["--generate.top_p", "0"], "generate.top_p is 0.0"),
        (["--generate.temperature", "-1"], "generate.temperature is -1.0"),
        (["--train.learning_rate", "nan"], "train.learning_rate is 'nan': give a number"),
        (["--machine.threads", "-2"], "machine.threads is -2"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["surprise"], "unrecognized arguments: surprise"),
    ],
)
def test_wrong_settings_get_one_clear_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("train", flags) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epocs: 3}", "unknown setting train.epocs: did you mean train.epochs?"),
        ("trian: {epochs: 3}", "unknown setting trian.epochs: did you mean train.epochs?"),
        ("train: [", "is not YAML that can be read"),
        ("train: {epochs: {a: 1}}", "train.epochs is 'several settings': give a whole number"),
        ("train: {epochs: [1, 2]}", "train.epochs is '[2 items]': give a whole number"),
        ("train: {epochs: null}", "train.epochs is 'null'"),
        ("train: 3", "mine.yaml, line 1: put settings below a section"),
        ("train:\n  epochs: 3\n  epochs: 4\n", "mine.yaml, line 3: train.epochs is there twice"),
        ("serve:\n  api_key: #secret\n", "serve.api_key is empty: give a text or null; a text that begins with #"),
        ('serve: {api_key: ""}', "serve.api_key is empty"),
        ("data:\n  path:\n", "data.path is empty"),
        ("# nothing", "holds no settings"),
        ("[1, 2]", "holds no settings"),
    ],
)
def test_wrong_config_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        parse("train", ["--config", str(path)])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["#1.csv", "~", "null", "no", "- x.csv", "a: b", "1e3", "007", "[draft].csv", "é 💡"])
def test_a_text_is_what_was_typed(text: str, tmp_path: Path) -> None:
    for flags in (["--data.path", text], [f"--data.path={text}"]):
        assert parse("preprocess", flags)[0].data.path == text
    mine = tmp_path / "mine.yaml"
    mine.write_text("serve:\n  api_key: '" + text + "'\n", encoding="utf-8")
    assert parse("serve", ["--config", str(mine)])[0].serve.api_key == text


def test_lists_are_parsed_and_null_unsets_what_holds_no_text() -> None:
    def data(*flags: str) -> DataConfig:
        return parse("preprocess", flags)[0].data

    assert data("--data.languages", "[no, 'on', \"a, b\", en]").languages == ["no", "on", "a, b", "en"]
    assert data("--data.languages", "no").languages == ["no"] and data("--data.languages", "no,en").languages == [
        "no",
        "en",
    ]
    assert data("--data.languages", "null").languages is None and data("--data.languages", "[]").languages == []
    assert data("--data.path", "[#1.csv, 'it''s.csv', null]").path == ["#1.csv", "it's.csv", "null"]
    assert data("--data.mask_private", "null").mask_private is None
    assert data("--data.mask_private", "yes").mask_private is True
    assert parse("distill", ["--distill.teacher", "[ensemble, ngram]", "--distill.weights", "[7, 3.5]"])[
        0
    ].distill.weights == [7.0, 3.5]
    assert parse("distill", ["--distill.weights", "null"])[0].distill.weights is None


def test_a_config_file_keeps_the_text_of_texts(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    lines = ["languages: [no, yes, 1]", "since: 2023-01-31", "column: 'null'", "encoding: ~", "path: 007"]
    mine.write_bytes(b"\xef\xbb\xbf" + "\n".join(["data:", *(f"  {line}" for line in lines), "train:"]).encode())
    data = parse("preprocess", ["--config", str(mine)])[0].data
    assert (data.languages, data.since, data.column, data.encoding) == (["no", "yes", "1"], "2023-01-31", "null", None)
    assert data.path == "007"


def test_a_config_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    for codec in ("utf-16", "utf-16-le", "cp1252"):
        mine = tmp_path / f"{codec}.yaml"
        mine.write_bytes("data:\n  column: Größe\n".encode(codec))
        with pytest.raises(UserError, match=rf"{codec}\.yaml is not"):
            parse("preprocess", ["--config", str(mine)])


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_text_comes_through_unchanged(text: str) -> None:
    config, arguments = parse("generate", ["--paths.checkpoint", text, "--", text])
    assert config.paths.checkpoint == arguments.prompt == text


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(name, ["--help"]) == 0
    text = capsys.readouterr().out
    assert COMMANDS[name].example in text and f"main.py {name}" in text
    assert "--paths.root" in text


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_example_parses(name: str) -> None:
    import shlex

    words = shlex.split(COMMANDS[name].example)
    assert words[:3] == ["python", "main.py", name]
    parse(name, words[3:])


def main(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "main.py", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_main_lists_the_commands_and_refuses_others() -> None:
    listed = main("--help")
    assert listed.returncode == 0 and all(name in listed.stdout for name in COMMANDS)
    wrong = main("trian")
    assert wrong.returncode == 2 and wrong.stdout == "" and wrong.stderr.count("\n") == 1 and "trian" in wrong.stderr
    assert main().returncode == 2


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, runpy; sys.argv = ['main.py', 'train', '--help']\n"
        "try: runpy.run_path('main.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'transformers', 'tokenizers', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_failures_have_one_line_and_exit_code_1(tmp_path: Path) -> None:
    for arguments in (("train",), ("generate", "Mars"), ("plot",)):
        failed = main(*arguments, "--paths.root", str(tmp_path))
        assert failed.returncode == 1 and failed.stdout == ""
        assert failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1, failed.stderr
        assert "python main.py" in failed.stderr  # it says what to do
    assert not any(tmp_path.rglob("*.*"))


def test_a_prompt_of_several_words_needs_quotes() -> None:
    with pytest.raises(UserError, match=r'the prompt has several words: put it in quotes, such as "hi there you"$'):
        parse("generate", ["hi", "there", "you", "--generate.seed", "3"])
    assert parse("generate", ["hi there", "--generate.seed", "3"])[1].prompt == "hi there"


def test_the_command_decides_which_setting_is_meant() -> None:
    for command, section in (("generate", "generate"), ("distill", "distill")):
        with pytest.raises(UserError, match=f"did you mean {section}.temperature"):
            parse(command, ["--temperature", "1"])
