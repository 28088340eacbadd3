"""Messages are printed once, by a command alone; a program that imports the package prints none."""

import logging

from amun_ray.base.log import LONGEST, complain, hushed, logger, say, speaking


def test_a_command_prints_what_is_said_and_leaves_nothing_behind(capfd):
    say("nobody listens")
    with speaking():
        say("[1/5 models]")
        logger.warning("a warning")
    say("nobody listens again")
    assert capfd.readouterr() == ("[1/5 models]\na warning\n", "")
    assert (logger.handlers, logger.level) == ([], logging.NOTSET)


def test_lines_are_printed_while_a_library_is_hushed(capfd):
    with speaking(), hushed():
        print("the library's")
        say("damaged; it is made again")
    with speaking():
        say("and after it")
    assert capfd.readouterr().out == "damaged; it is made again\nand after it\n"


def test_a_notebook_can_silence_it(capfd):
    logger.setLevel(logging.WARNING)
    try:
        with speaking():
            say("progress")
            logger.warning("a warning")
    finally:
        logger.setLevel(logging.NOTSET)
    assert capfd.readouterr().out == "a warning\n"


def test_a_program_with_a_handler_of_its_own_gets_the_lines_there(capfd, caplog):
    caplog.set_level(logging.INFO, "amun_ray")
    logger.addHandler(caplog.handler)
    try:
        with speaking():
            say("a line")
    finally:
        logger.removeHandler(caplog.handler)
    assert capfd.readouterr().out == ""
    assert "a line" in caplog.text


def test_a_complaint_is_cut_line_by_line(capfd):
    complain(f"error: {'x' * 10**5}\nshort\n{'y' * LONGEST}")
    first, *rest = capfd.readouterr().err.split("\n")
    assert first == f"error: {'x' * (LONGEST - 7)}..."
    assert rest == ["short", "y" * LONGEST, ""]
