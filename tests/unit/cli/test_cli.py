"""Exit statuses, errors in words, and the .env file."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys

import pytest

from clustering.cli.commands.run import print_result
from clustering.cli.main import COMMANDS, main, run_command
from clustering.config.loading import build_config
from clustering.errors import ConfigError, StoreError


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ConfigError(["one is wrong", "two is wrong"]), 2, "error: one is wrong\nerror: two is wrong\n"),
        (StoreError("the store is gone"), 1, "error: the store is gone\n"),
        (KeyError("plain"), 1, "error: KeyError: 'plain'\n"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from here\n"),
    ],
)
def test_an_error_gives_its_status_and_ends_with_its_words(error, status, said, capsys):
    def work():
        raise error

    assert run_command(work) == status
    assert capsys.readouterr().err.endswith(said)


def made_an_exit_with_1():  # as Ray does
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except SystemExit:
        raise SystemExit(1) from None


def failed_over_it():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        raise StoreError("the store is gone")


def met_rays_handler():  # which is there while Ray starts
    signal.alarm(60)
    sys.exit(signal.SIGTERM)


@pytest.mark.parametrize("work", [made_an_exit_with_1, failed_over_it, met_rays_handler])
def test_sigterm_is_said_whatever_became_of_it(work, capsys):
    assert run_command(work) == 143
    assert signal.alarm(0) == 0, "an alarm would have ended the process"
    assert capsys.readouterr().err == "terminated; the same command goes on from here\n"


def test_an_exit_of_the_work_itself_is_left_alone():
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: sys.exit(3))
    assert ended.value.code == 3


def test_a_dot_env_file_is_read_and_the_environment_goes_first(tmp_path, monkeypatch, capsys):
    (tmp_path / ".env").write_text("COVEY_TEST_FILE=from-file\nCOVEY_TEST_BOTH=from-file\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COVEY_TEST_BOTH", "from-environment")
    monkeypatch.setenv("COVEY_TEST_FILE", "")  # so that it is restored afterwards
    monkeypatch.delenv("COVEY_TEST_FILE")
    seen = []
    assert run_command(lambda: seen.extend([os.environ["COVEY_TEST_FILE"], os.environ["COVEY_TEST_BOTH"]])) == 0
    assert seen == ["from-file", "from-environment"]
    assert f"{tmp_path / '.env'}: taken from it: COVEY_TEST_FILE\n" in capsys.readouterr().err
    monkeypatch.delenv("COVEY_TEST_FILE")


def test_a_dot_env_file_of_a_folder_above_is_not_read(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("COVEY_TEST_FILE=from-above\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    monkeypatch.delenv("COVEY_TEST_FILE", raising=False)
    seen = []
    assert run_command(lambda: seen.append(os.environ.get("COVEY_TEST_FILE"))) == 0
    assert seen == [None]


def test_a_dot_env_file_of_another_user_is_not_read(tmp_path, monkeypatch, capsys):
    (tmp_path / ".env").write_text("COVEY_TEST_FILE=from-file\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    seen = []
    assert run_command(lambda: seen.append(os.environ.get("COVEY_TEST_FILE"))) == 0
    assert seen == [None]
    owner = os.stat(tmp_path).st_uid
    assert f"{tmp_path / '.env'} is not read: it belongs to another user (uid {owner})" in capsys.readouterr().err


def test_a_dot_env_file_that_cannot_be_read_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes("KEY=caf\u00e9\n".encode("latin-1"))
    assert run_command(lambda: None) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / '.env'} is not UTF-8 (byte 7); save it as UTF-8, or move it away\n"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_its_words(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: covey {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["run", "news.csv", "-v", "serch.k=5"],
        ["run", "-v", "news.csv", "--log-format", "text", "serch.k=5"],
        ["plan", "news.csv", "--texts", "10", "serch.k=5"],
        ["recluster", "cluster.copies=fold", "--run", ".", "serch.k=5", "--trust"],
        ["assign", "embed.batch_size=5", "--run", ".", "--input", "new.csv", "--trust", "serch.k=5"],
    ],
)
def test_words_count_before_and_behind_options(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "news.csv").write_text("id,title\n1,storm\n")
    (tmp_path / "manifest.json").write_text(
        json.dumps({"id": "0" * 12, "stages": {}, "config": build_config({}).as_dict()})
    )
    assert main(words) == 2
    assert "serch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "news.csv", "-v", "read.limit=5", "--quick", "no"], "--quick no"),
        (["run", "news.csv", "-v", "-5"], "-5"),
        (["show", "--run", "x", "cluster.copies=fold"], "cluster.copies=fold"),
    ],
)
def test_an_option_that_is_not_known_is_named(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert f"unrecognized arguments: {said}\n" in capsys.readouterr().err


def test_texts_of_others_cannot_command_the_terminal(capsys):
    def work():
        logging.getLogger("covey").warning("the id is %s", "red\x1b[31m\u202e")
        print_result("warning: \x1b]0;title\x07", "text")
        raise ConfigError(["\x9b2J gone"])

    assert run_command(work) == 2
    out, err = capsys.readouterr()
    assert out == "warning: �]0;title�\n"
    assert err == "the id is red�[31m�\nerror: �2J gone\n"


def test_a_locale_without_a_character_ends_no_command():
    code = "from clustering.cli.main import run_command; from clustering.cli.commands.run import print_result; "
    code += "run_command(lambda: print_result('京 ü', 'text'))"
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True
    )
    assert found.stdout == b"\\u4eac \\xfc\n"
