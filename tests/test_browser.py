"""A sweep as a person sees it, in a real browser: its pages in MLflow, and its report without a network.

AMUN_SCREENSHOTS=FOLDER keeps a picture of each page there.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from serving import Server
from sweeping import uri

selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install -e '.[test]'")
PATIENCE_SECONDS = 240
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-component-update", "--disable-background-networking", "--disable-dev-shm-usage",
         "--window-size=1600,1200")
PROGRAMS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
pytestmark = [pytest.mark.usefixtures("screenshot"), pytest.mark.skipif(
    None in PROGRAMS.values(), reason="no chromium with chromedriver here (Debian packages chromium, chromium-driver)")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = PROGRAMS["chromium"]
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(PROGRAMS["chromedriver"]))
    driver.set_page_load_timeout(PATIENCE_SECONDS)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(undisturbed) -> Iterator[str]:
    """The address of an MLflow server over the finished sweep."""
    server = Server(uri(undisturbed[1]), undisturbed[1] / "mlartifacts")
    yield server.start().uri
    server.kill()


@pytest.fixture(scope="module")
def sweep_run(undisturbed) -> tuple[str, str]:
    """The ids of the experiment and of the run of the sweep."""
    client = MlflowClient(tracking_uri=uri(undisturbed[1]))
    experiment = client.get_experiment_by_name("small").experiment_id
    (run,) = client.search_runs([experiment], filter_string="tags.stage = 'sweep'")
    return experiment, run.info.run_id


def wait_for(what: str, found: Callable[[], object]) -> object:
    """What `found` comes to, as soon as that is something; a page draws itself bit by bit."""
    from selenium.common.exceptions import WebDriverException
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            if result := found():
                return result
        except WebDriverException:  # the page was drawn anew while it was read
            pass
        time.sleep(0.5)
    raise AssertionError(f"{what} did not appear")


def words(browser) -> str:
    return browser.execute_script("return document.body ? document.body.innerText : ''")


def images(browser) -> list[int]:
    """The width in pixels of every picture that is drawn, 0 for a broken one."""
    return browser.execute_script("return [...document.images].map(one => one.complete ? one.naturalWidth : 0)")


@pytest.fixture
def screenshot(browser, request) -> Iterator[None]:
    """What the browser shows at the end of a test, as a picture, where pictures are wanted."""
    yield
    if folder := os.environ.get("AMUN_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder, f"{request.node.name}.png")))


def test_the_experiment_lists_the_run_of_the_sweep(browser, pages, sweep_run):
    browser.get(f"{pages}/#/experiments/{sweep_run[0]}/runs")
    assert wait_for("the run of the sweep in the list", lambda: "sweep small" in words(browser))


def test_the_page_of_the_sweep_shows_its_result(browser, pages, sweep_run):
    experiment, run = sweep_run
    browser.get(f"{pages}/#/experiments/{experiment}/runs/{run}?workflowType=machine_learning")
    assert wait_for("the result in words", lambda: "comes nearest to retraining" in words(browser))
    assert wait_for("the table", lambda: browser.execute_script(
        "return [...document.querySelectorAll('table')].some(one => one.innerText.includes('Avg. Gap'))"))
    assert wait_for("a metric of the result", lambda: "average_gap.amun.retain" in words(browser))


def test_the_list_of_models_has_the_columns_of_the_result(browser, pages, sweep_run, undisturbed):
    _, run = sweep_run
    client = MlflowClient(tracking_uri=uri(undisturbed[1]))
    note = client.get_run(run).data.tags["mlflow.note.content"]
    browser.get(f"{pages}/" + re.search(r"\[unlearned models by Avg. Gap\]\(([^)]*)\)", note)[1])
    assert wait_for("the list", lambda: "final 1, run" in words(browser) and "average_gap" in words(browser)
             and "sweep small" not in words(browser))


def test_the_run_of_the_sweep_shows_its_table(browser, pages, sweep_run):
    experiment, run = sweep_run
    browser.get(f"{pages}/#/experiments/{experiment}/runs/{run}/artifacts/final_table.json")
    assert wait_for("the table", lambda: all(
        word in words(browser) for word in ("retrain", "Avg. Gap", "MIS", "only D_F")))


def test_the_run_of_the_sweep_shows_its_figures(browser, pages, sweep_run):
    experiment, run = sweep_run
    browser.get("about:blank")  # to a page that is open another address behind the # is no new page
    browser.get(f"{pages}/#/experiments/{experiment}/runs/{run}/artifacts/figures/final_comparison.png")
    assert wait_for("the figure", lambda: max(images(browser), default=0) > 500)


def test_the_report_opens_without_a_network(browser, undisturbed):
    browser.set_network_conditions(offline=True, latency=0, download_throughput=0, upload_throughput=0)
    try:
        browser.get(Path(undisturbed[1], "report.html").as_uri())
        text = words(browser)
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
        widths = wait_for("every picture", lambda: all(images(browser)) and images(browser))
    finally:
        browser.delete_network_conditions()
    for word in ("Unlearning report: small", "the target", "Other attacks", "LiRA AUC", "device-seconds", "retrain"):
        assert word in text
    assert len(widths) >= 9
    assert [name for name in loaded if not name.startswith("data:")] == []
