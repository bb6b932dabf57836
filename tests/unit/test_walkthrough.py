"""A page whose commands are run, and whose output is renewed."""

from __future__ import annotations

from pathlib import Path

from benchmarks import walkthrough

PAGE = """
Text stays.

```console
$ name=value
$ echo "$name"; echo secret >&2
what it printed before
```

```sh
$ echo other blocks stay
```

```console
$ printf 'no line feed'
$ cd ..; pwd
```
"""


def test_all_commands_are_given_to_one_shell_and_their_output_takes_the_place_of_the_old(
    tmp_path: Path,
) -> None:
    shell = walkthrough.Shell(tmp_path)
    page = walkthrough.renewed(PAGE, lambda each: walkthrough.cleaned(shell.run(each), str(tmp_path.parent)))
    shell.stop()
    # Twice the same, where the commands print the same.
    assert page == PAGE.replace("what it printed before", "value\nsecret").replace(
        "line feed'\n", "line feed'\nno line feed\n"
    ).replace("pwd\n", "pwd\n~\n")


def test_nothing_that_is_secret_or_only_for_this_machine_is_written_down() -> None:
    said = (
        "2026-11-27 13:55:48,273 INFO tunemesh.shared.transport.link: connecting\n"
        "broker     amqp://client:ByJPJaD5nHT@127.0.0.1:23930/tunemesh\n"
        "UI         http://127.0.0.1:29898  user monitor, password WKJm7CeYSm\n"
        "noted in   /tmp/some/mesh.json\n"
        "tiny_cnn: tuning, 3/48 trials, 9 s left\n"
        "tiny_cnn: done, 48/48 trials\n"
    )
    assert walkthrough.cleaned(said, "/tmp/some") == (
        "broker     amqp://client:…@127.0.0.1:…/tunemesh\n"
        "UI         http://127.0.0.1:…  user monitor, password …\n"
        "noted in   ~/mesh.json\n"
        "tiny_cnn: done, 48/48 trials\n"
    )


def test_the_page_has_such_blocks() -> None:
    commands = "".join(walkthrough.BLOCK.findall(walkthrough.PAGE.read_text()))
    assert commands.count("$ ") > 10
