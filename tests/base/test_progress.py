"""A watcher is told the progress even where no bar is drawn."""

from amun_ray.base.progress import bar, watched


def test_a_watcher_is_told_how_far_it_is_while_it_watches(capsys):
    told = []
    with bar("training", 3, "models") as progress:
        progress.advance()
        with watched(told.append):
            progress.advance(2)
    with bar("search", 1, "trials") as progress:
        progress.advance()
    assert told == ["3 of 3 models"]
