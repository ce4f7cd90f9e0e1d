"""The command line as a person runs it, in processes of their own, on the tiny size."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from helpers.tokenizer import BPETokenizer

from .conftest import ROOT, make_model, need_shared


def run(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "helpers", *map(str, arguments)],
        capture_output=True, text=True, timeout=600, cwd=ROOT, env=os.environ | environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A tiny Sprout: it cannot talk sense, but everything about it is real."""
    folder = tmp_path_factory.mktemp("grown") / "sprout"
    done = run("train", "--size", "tiny", "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_growing_makes_two_whole_models_and_says_how_good_they_are(grown):
    files = {"config.json", "model.safetensors", "run.json", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in grown.iterdir()} == files | {"base"}
    assert {path.name for path in (grown / "base").iterdir()} == files
    record = json.loads((grown / "run.json").read_text())
    assert record["stage"] == "chat" and record["held_out"]["loss"] < 5
    assert record["losses"][-1][1] < record["losses"][0][1]


def test_chat_answers_once_and_repeats_itself_with_a_seed(grown):
    first, second = (run("chat", "--model", grown, "--prompt", "Hi! My name is Ada.", "--seed", 1) for _ in range(2))
    assert first.returncode == 0 and first.stdout.strip()
    assert first.stdout == second.stdout


def test_chat_grows_a_model_where_there_is_none(tmp_path):
    code = (
        "import helpers.grow as grow; grow.SIZES['sprout'] = grow.SIZES['tiny'];"
        "from helpers.__main__ import main; raise SystemExit(main(['chat', '--prompt', 'Hi']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, cwd=ROOT,
        env=os.environ | {"SPROUT_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "grown first" in done.stdout
    assert (tmp_path / "models" / "sprout" / "config.json").is_file()


def test_a_whole_conversation_from_the_keyboard(grown):
    done = subprocess.run(
        [sys.executable, "-m", "helpers", "chat", "--model", str(grown), "--max-new-tokens", "5"],
        input="Hello\n/new\nHow are you?\n\n", capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "forgotten" in done.stdout and done.stdout.count("you>") == 4


def test_complete_continues_a_base_model_and_chat_refuses_it(grown):
    done = run("complete", "--model", grown / "base", "--prompt", "The cat", "--max-new-tokens", 10)
    assert done.returncode == 0 and done.stdout.startswith("The cat")
    refused = run("chat", "--model", grown / "base", "--prompt", "Hi")
    assert refused.returncode == 2 and "never taught to chat" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_evaluate_prints_the_scores_beside_the_baseline(grown):
    done = run("evaluate", "--model", grown)
    assert done.returncode == 0, done.stderr
    assert "model" in done.stdout and "baseline, noisy" in done.stdout and "%" in done.stdout


def test_conversations_of_others_train_a_chat_model(tmp_path):
    records = [
        {"messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": f"{i}."}]}
        for i in range(400)
    ]
    (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, records)))
    done = run("train", "--data", tmp_path / "talks.jsonl", "--size", "tiny", "--out", tmp_path / "m")
    assert done.returncode == 0, done.stderr
    assert run("chat", "--model", tmp_path / "m", "--prompt", "Say 3").returncode == 0


def test_instruction_records_train_on_top_of_a_base_model(grown, tmp_path):
    data = need_shared("instruction-data.json")
    done = run("train", "--data", data, "--from", grown / "base", "--size", "tiny", "--out", tmp_path / "m")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "m" / "run.json").read_text())["stage"] == "chat"


def test_plain_text_trains_a_base_model_in_the_time_given(tmp_path):
    data = need_shared("tinyshakespeare.txt")
    done = run("train", "--data", data, "--size", "tiny", "--max-seconds", 10, "--out", tmp_path / "m")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "m" / "run.json").read_text())
    assert record["stage"] == "base" and record["plan"]["steps"] > 30
    assert run("complete", "--model", tmp_path / "m", "--prompt", "ROMEO:").stdout.startswith("ROMEO:")


def test_ctrl_c_keeps_the_work_and_resume_finishes_it(tmp_path):
    folder = tmp_path / "m"
    command = [sys.executable, "-m", "helpers", "train", "--size", "tiny", "--max-seconds", "40", "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while process.poll() is None and not (folder / "base" / "checkpoints" / "tokenizer.json").exists():
        time.sleep(0.05)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "go on with --resume" in out
    resumed = run("train", "--resume", "--out", folder)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on at step" in resumed.stdout and (folder / "run.json").is_file()


def cases(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"\x00\x01\xff\xfe")
    (tmp_path / "short.txt").write_text("Too short.")
    (tmp_path / "wrong.json").write_text('[{"question": "x"}]')
    (tmp_path / "broken.jsonl").write_text('{"messages": [')
    (tmp_path / "folder").mkdir()
    make_model().save_pretrained(tmp_path / "no_tokenizer")
    yield ["train", "--data", tmp_path / "nowhere.txt"], "no file or folder"
    yield ["train", "--data", tmp_path / "empty.txt"], "empty"
    yield ["train", "--data", tmp_path / "binary.txt"], "not a text file"
    yield ["train", "--data", tmp_path / "short.txt", "--size", "tiny"], "tokens"
    yield ["train", "--data", tmp_path / "wrong.json"], "instruction"
    yield ["train", "--data", tmp_path / "broken.jsonl"], "messages"
    yield ["train", "--data", tmp_path / "folder"], "no .txt file"
    yield ["train", "--size", "huge"], "tiny, sprout, gpt2"
    yield ["train", "--max-seconds", "-3"], "max-seconds"
    yield ["train", "--from", tmp_path / "folder", "--size", "tiny"], "not a model folder"
    yield ["train", "--resume"], "nothing to resume"
    yield ["chat", "--model", tmp_path / "folder", "--prompt", "Hi"], "not a model folder"
    yield ["chat", "--model", tmp_path / "nowhere", "--prompt", "Hi"], "there is no model"
    yield ["chat", "--model", tmp_path / "no_tokenizer", "--prompt", "Hi"], "no tokenizer"
    yield ["complete", "--model", tmp_path / "folder", "--prompt", "Hi"], "not a model folder"
    yield ["chat", "--prompt", " "], "empty"
    yield ["evaluate", "--model", tmp_path / "nowhere"], "there is no model"


def test_bad_input_gets_one_sentence_and_exit_code_2(tmp_path, capsys):
    from helpers.__main__ import main

    for number, (arguments, said) in enumerate(cases(tmp_path)):
        out = tmp_path / f"out{number}"
        arguments = [str(argument) for argument in arguments] + (["--out", str(out)] if arguments[0] == "train" else [])
        assert main(arguments) == 2, arguments
        message = capsys.readouterr().err
        assert message.startswith("error: ") and said in message and message.count("\n") == 1, (arguments, message)
        assert not out.exists(), f"{arguments} left something half-written"


def test_a_vocabulary_too_small_is_named():
    with pytest.raises(ValueError, match="at least 261"):
        BPETokenizer.train("text", vocab_size=260)


def test_help_shows_examples():
    done = run("--help")
    assert done.returncode == 0 and "examples:" in done.stdout
