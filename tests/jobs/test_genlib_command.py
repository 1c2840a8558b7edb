"""`genlib`: one word a job, from a package that is installed or from a clone; and what shells complete."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from genlib import program
from genlib.program import VERBS
from jobs import genlib_command
from jobs.completion import SCRIPTS, Case

ROOT = Path(__file__).parents[2]
MAIN = "import sys; sys.argv[0] = 'genlib'; from jobs.genlib_command import main; code = main(); "


def called(*words: str, then: str = "sys.exit(code)") -> subprocess.CompletedProcess:
    """`genlib WORDS` in a process of its own."""
    return subprocess.run([sys.executable, "-c", MAIN + then, *words], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_help_names_every_command_and_imports_next_to_nothing() -> None:
    said = called("--help", then="print(sorted({'torch', 'ray', 'numpy', 'tyro', 'pydantic'} & sys.modules.keys()))")
    lines = said.stdout.splitlines()
    assert lines[0] == "usage: genlib COMMAND ..."
    assert [line.split()[0] for line in lines[2 : 2 + len(VERBS)]] == list(VERBS)
    assert lines[-1] == "[]"


def test_scripts_are_there_and_are_what_the_words_run() -> None:
    for verb in VERBS.values():
        if verb.script.startswith("python jobs/"):
            path = verb.script.removeprefix("python ")
            assert (ROOT / path).is_file()
            assert verb.target == f"{path.removesuffix('.py').replace('/', '.')}:main"


def test_a_word_that_is_none_is_one_sentence() -> None:
    said = called("trian", "som")
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == "there is no command 'trian'. Did you mean 'train'? `genlib --help` shows all\n"


def test_sentences_name_the_command_as_it_was_called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for called_as, name in (("/usr/bin/genlib", "genlib train"), ("jobs/train.py", "python jobs/train.py")):
        monkeypatch.setattr(sys, "argv", [called_as, "--list"])
        assert program.command("train") == name
        assert program.as_called("see `python jobs/train.py vae`") == f"see `{name} vae`"
        short = program.as_called("`prepare_data.py look x`")
        assert short == ("`genlib data look x`" if name.startswith("genlib") else "`prepare_data.py look x`")
    monkeypatch.setattr(sys, "argv", ["genlib", "train", "somm"])
    assert genlib_command.main() == 2
    assert capsys.readouterr().err == "there is no recipe 'somm'. Did you mean 'som'? `genlib train --list` shows all\n"
    for words, usage in ((["train", "som", "--help"], "usage: genlib train som ["), (["data", "look", "--help"], "usage: genlib data look [")):
        monkeypatch.setattr(sys, "argv", ["genlib", *words])
        with pytest.raises(SystemExit, match="0"):
            genlib_command.main()
        out = capsys.readouterr().out
        assert out.startswith(usage)
        assert "python jobs/" not in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["generate", "run"], "the following arguments are required: --out"),
        (["generate", "run", "--out", "x", "--smaples", "3"], "there is no option --smaples. Did you mean '--sampler'? `--help` shows all"),
        (["evaluate", "run", "--samples", "0"], "--samples: 0 is not above 0"),
        (["serve", "--prot", "3"], "there is no option --prot. Did you mean '--port'? `--help` shows all"),
        (["serve", "--replicas", "x"], "--replicas is 'x'; write a number such as 2"),
        (["data", "folder"], "error: WHERE and --out must be given; `--help` says what they are"),
        (["data", "shapes", "--otu", "x"], "error: there is no option --otu. Did you mean '--out'? `--help` shows all"),
        (["plan", "som", "--mfu", "3"], "--mfu is 3; it is a share of the peak"),
        (
            ["cluster", "stop"],
            "`genlib cluster` takes start, status, preflight, leave, notices CLOUD, submit -- COMMAND or validate [FILE...], not 'stop'",
        ),
        (["cluster", "submit"], "what shall I submit? `genlib cluster submit -- genlib train RECIPE`"),
        (["cluster", "status"], "RAY_ADDRESS names no cluster; set it, or start a head with `genlib cluster start`"),
        (["completion", "fsh"], "there is no completion for 'fsh'. Did you mean 'fish'? There is one for bash, zsh, fish"),
    ],
)
def test_what_is_wrong_is_one_sentence(words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["genlib", *words])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    try:
        code = genlib_command.main()
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert (code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith(sentence)


CASES = [Case(("",), ("train", "tune")), Case(("train",), ("som", "som_tsp", "vae")), Case(("train *", "tune *"), ("--workers", "--run"))]
RECIPES = [Case(("train som", "tune som"), ("--task.grid", "--train.steps", "--train.seed"))]
LINES = [
    ("genlib t", "train tune"), ("genlib train so", "som som_tsp"), ("genlib train som --train.s", "--train.seed --train.steps"),
    ("genlib train som --run x --w", "--workers"), ("genlib tune som --task.", "--task.grid"), ("genlib train vae --task.", ""),
]  # fmt: skip
ASK = {
    "bash": 'COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _genlib; printf "%s\\n" "${{COMPREPLY[@]}}"',
    "zsh": 'words=({line}); CURRENT=$#words; compadd() {{ print -l -- "${{(M)@[2,-1]:#$words[-1]*}}" }}; _files() {{ : }}; _genlib',
    "fish": "complete -C '{line}'",
}


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_shell_completes_commands_recipes_and_options(shell: str, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell}")
    script = tmp_path / "script"
    script.write_text(("compdef() { : }\n" if shell == "zsh" else "") + SCRIPTS[shell](CASES, RECIPES) + "\n")
    bare: Sequence[str] = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["-N"]}[shell]
    asked = "\n".join(f"echo '>'; {ASK[shell].format(line=line)}" for line, _ in LINES)
    said = subprocess.run([shell, *bare, "-c", f"source {script}\n{asked}"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert said.stderr == ""
    found = [" ".join(sorted(part.split())) for part in said.stdout.split(">\n")[1:]]
    assert found == [words for _, words in LINES]


@pytest.mark.slow
def test_the_script_has_every_recipe_and_its_options() -> None:
    from genlib import registry
    from jobs.completion import by_recipe, by_verb

    verbs, recipes = by_verb(), by_recipe()
    assert {name for case in recipes for name in case.after if name.startswith("train ")} == {f"train {name}" for name in registry.recipes()}
    words = {after: case.words for case in [*verbs, *recipes] for after in case.after}
    assert "--denoiser.task.unet.head-dim" in words["train sdxl"]
    assert "--sampler" in words["generate *"]
    assert set(VERBS) <= {after.split(" ")[0] for after in words}


@pytest.mark.slow
def test_a_wheel_has_the_command_and_all_files_that_are_read(tmp_path: Path) -> None:
    kept = subprocess.run(
        ["git", "ls-files", "genlib", "jobs", "cluster", "serve", "tune_spaces"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    copy = tmp_path / "copy"
    for name in [*kept.stdout.split(), "pyproject.toml", "README.md", "LICENSE"]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(copy)]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        read = {name for name in kept.stdout.split() if not name.endswith(".md") and "/pictures/" not in name}  # but for pages
        assert read <= set(archive.namelist())
        (entry_points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "genlib = jobs.genlib_command:main" in archive.read(entry_points).decode()
