"""The loop of `candlewick chat`: lines, commands, Ctrl-C, and what is shown of a model's text."""

import builtins
import io
import json

import pytest

from candlewick.cli.main import main


@pytest.fixture
def chat(trained, monkeypatch, capsys):
    """Talk with the trained run, or another one: `chat([lines], *flags)`; an exception is raised by `input`."""

    def talk(lines, *flags, run=trained, code=0):
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        todo = iter(lines)

        def take(_prompt):
            line = next(todo, EOFError)
            if isinstance(line, str):
                return line
            raise line

        monkeypatch.setattr(builtins, "input", take)
        capsys.readouterr()
        assert main(["chat", str(run), "--max-new-tokens", "4", "--temperature", "0", *flags]) == code
        return capsys.readouterr()

    return talk


def test_chat_reads_lines_from_a_pipe(trained, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("The man\n"))
    assert main(["chat", str(trained), "--max-new-tokens", "4", "--temperature", "0"]) == 0
    shown = capsys.readouterr()
    assert main(["generate", str(trained), "The man", "--max-new-tokens", "4", "--temperature", "0"]) == 0
    assert "The man" + shown.out == capsys.readouterr().out
    assert "was not trained on chats: it continues your text" in shown.err
    assert "tokens/s" in shown.err


def test_chat_answers_messages_and_forgets_at_reset(chat, chatting):
    shown = chat(["Wh?", "", "Wh?", "/reset", "Wh?"], run=chatting)
    first, _, third = shown.out.splitlines()
    assert first == third
    assert "The model answers your messages" in shown.err
    assert "all is forgotten" in shown.err


def test_chat_saves_what_was_said(chat, chatting, tmp_path):
    file = tmp_path / "chats.jsonl"
    shown = chat(["Wh?", f"/save {file}"], "--system", "S", run=chatting)
    (row,) = map(json.loads, file.read_text().splitlines())
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
    assert row["messages"][2]["content"] == shown.out[:-1]
    assert f"1 row appended to {file}" in " ".join(shown.err.split())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/help", "/temperature X"),
        ("/stop now", "there is no command '/stop now'; the commands are"),
        ("/save", "there is no command '/save'"),
        ("/temperature hot", "/temperature takes a number, not 'hot'"),
        ("/temperature 9", "error: temperature: Input should be less than or equal to 5"),
        ("/save /no/such/folder/file", "No such file"),
    ],
)
def test_chat_tells_what_a_line_does_wrong_and_goes_on(chat, line, said):
    shown = chat([line, "The man"])
    assert said in " ".join(shown.err.split())
    assert shown.out.count("\n") == 1


def test_chat_tells_of_a_message_that_is_too_long_and_goes_on(chat, chatting):
    shown = chat(["x" * 100, "a"], run=chatting)
    assert "error: the prompt has 1" in shown.err
    assert shown.out.count("\n") == 1


def test_chat_samples_with_another_temperature(chat):
    def say(temperature):
        return chat([f"/temperature {temperature}", "The"], "--max-new-tokens", "20").out

    assert say(0) == say(0) != say(2)


def test_chat_ends_at_quit_at_the_end_of_input_and_at_a_second_interrupt(chat):
    assert chat(["/quit", "The"]).out == ""
    assert chat([]).out == ""
    shown = chat([KeyboardInterrupt, "The", KeyboardInterrupt, KeyboardInterrupt, "The"])
    assert shown.out.count("\n") == 1
    assert shown.err.count("once more, Ctrl-D or /quit to end") == 2


def test_interrupt_stops_the_answer_and_keeps_what_came(chat, monkeypatch, tmp_path):
    from candlewick.generate.detokenize import TextStream

    pushed = []
    push = TextStream.push

    def interrupted(self, token):
        pushed.append(token)
        if len(pushed) == 3:
            raise KeyboardInterrupt
        return push(self, token)

    monkeypatch.setattr(TextStream, "push", interrupted)
    shown = chat(["The", f"/save {tmp_path / 'texts'}", "/reset", "The"])
    partial, whole = shown.out.splitlines()
    assert whole.startswith(partial)
    assert len(whole) > len(partial)
    assert "; stopped" not in shown.err  # a text goes on where it stopped
    assert json.loads((tmp_path / "texts").read_text()) == {"text": f"The{partial}"}


def test_chat_escapes_terminal_control_characters(chat, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("candlewick.tokenizer.bpe.Tokenizer.decode_continuation", lambda *_: "\x1b[2J")
    assert "\x1b[2J" not in chat(["The"]).out


def test_chat_exits_in_one_line_without_a_model_or_for_a_wrong_value(chat, tmp_path):
    assert "no finished checkpoint" in chat([], run=tmp_path, code=3).err
    assert "--top-p" in chat([], "--top-p", "2", code=2).err
    assert "leave --system out" in chat([], "--system", "x", code=2).err
