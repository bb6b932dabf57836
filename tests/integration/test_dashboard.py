"""The dashboard in a browser, and at a real broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.conftest import Broker
from tests.integration import chromium
from tests.unit.fake_mesh import FakeMesh, job, until
from tunemesh.broker_config import topology
from tunemesh.dashboard.board import Board
from tunemesh.dashboard.feed import Feed
from tunemesh.dashboard.server import Dashboard
from tunemesh.mesh_address import MeshAddress
from tunemesh.shared import codec
from tunemesh.shared.messages import JobEvent
from tunemesh.shared.transport.link import Link, Outgoing

pytestmark = pytest.mark.waiting
JOBS = 1000
TOKEN = "a-token-that-nobody-guesses"
ROW = "document.querySelector('[data-live=\"job net-0998\"]')"

CONTRASTS = """
(() => {
  const part = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * part(r / 255) + 0.7152 * part(g / 255) + 0.0722 * part(b / 255);
  const colour = (text) => text.match(/[\\d.]+/g).map(Number);
  const paper = (at) => {
    for (let each = at; each; each = each.parentElement) {
      const found = colour(getComputedStyle(each).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const at = node.parentElement;
    if (!node.textContent.trim() || !at.checkVisibility() || at.closest("svg, option")) continue;
    const [low, high] = [light(colour(getComputedStyle(at).color)), light(paper(at))].sort((a, b) => a - b);
    if ((high + 0.05) / (low + 0.05) < 4.5) bad.push(node.textContent.trim());
  }
  return bad;
})()
"""
"""Texts that stand out from what is behind them by less than the WCAG asks for."""

NAMELESS = """
[...document.querySelectorAll("input, select, button, a, [role=region], progress")].filter((each) =>
  each.checkVisibility() && !(each.innerText || each.getAttribute("aria-label") || (each.labels || []).length)
).map((each) => each.outerHTML)
"""
"""What a screen reader could not name."""


@pytest.fixture
def mesh() -> FakeMesh:
    return FakeMesh([job(number) for number in range(JOBS)])


@pytest.fixture
def url(mesh: FakeMesh) -> Iterator[str]:
    served = Dashboard(
        MeshAddress(broker="amqp://x", artifacts=""), "127.0.0.1", 0, token=TOKEN, connect=mesh.client
    )
    thread = threading.Thread(target=served.run)
    thread.start()
    yield served.url
    served.stop()
    thread.join(20.0)


@pytest.mark.skipif(chromium.found() is None, reason="needs Chromium (Debian: chromium)")
def test_a_person_watches_and_stops_jobs(
    mesh: FakeMesh, url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One test, because a browser takes a second to start."""
    with chromium.Browser(tmp_path_factory.mktemp("browser")) as browser:
        browser.look(1280, 900)
        browser.open(url)
        # The token is not in the address any more, which a person may show or send to others.
        assert browser.run("location.search") == ""
        browser.until("document.getElementById('state').innerText.startsWith('Live')")
        browser.until("document.querySelectorAll('[data-order=jobs] tr').length === 25")
        browser.until(f"document.querySelector('.counts').innerText.includes('{JOBS:,} all')")

        # What happens is seen without loading the page again.
        browser.run("window.same = true")
        mesh.change("net-0998", trials=111)
        browser.until(f"{ROW}.innerText.includes('111/128')")
        mesh.change("net-0998", phase="done", finished=time.time())
        browser.until("document.querySelector('.counts').innerText.includes('501 done')")
        browser.until(f"!{ROW}")  # those that run come first
        assert browser.run("window.same")

        # The broker goes and comes.
        mesh.goes("connection reset")
        browser.until("document.getElementById('state').innerText.includes('the broker is away')")
        mesh.comes()
        browser.until("document.getElementById('state').innerText.startsWith('Live')")

        # Everybody can read and name what is there, whatever it is looked at with.
        for dark in (False, True):
            browser.look(1280, 900, dark)
            assert browser.run(CONTRASTS) == []
        assert browser.run(NAMELESS) == []
        browser.look(390, 800)
        assert browser.run("document.documentElement.scrollWidth") <= 390

        # A job is found by what is known of it.
        browser.run("document.querySelector('[name=text]').value = 'net-0462 gold'")
        browser.run("document.querySelector('form').requestSubmit()")
        browser.until("document.querySelectorAll('[data-order=jobs] tr').length === 1")
        assert "nvidia-h100" in browser.run("document.querySelector('[data-order=jobs] tr').innerText")
        browser.run("document.querySelector('[data-order=jobs] a').click()")
        browser.until("location.pathname === '/jobs/net-0462'")
        browser.until("document.body.innerText.includes('What came out so far')")
        for dark in (False, True):
            browser.look(390, 800, dark)
            assert browser.run(CONTRASTS) == []
        assert browser.run(NAMELESS) == []
        assert browser.run("document.documentElement.scrollWidth") <= 390

        # With the keyboard alone it is stopped, after a question that can be said no to.
        browser.until("document.querySelector('[data-keep=true]')")
        for answer, stopped in (("Escape", []), ("Enter", [("net-0462", True)])):
            for _ in range(20):
                if browser.run("document.activeElement.dataset.keep") == "true":
                    break
                browser.press("Tab")
            browser.press("Enter")
            browser.until("document.getElementById('sure').open")
            assert browser.run("document.activeElement.value") == "no"
            if answer == "Enter":
                browser.press("Tab")
                assert browser.run("document.activeElement.value") == "yes"
            browser.press(answer)
            browser.until("!document.getElementById('sure').open")
            if stopped:
                browser.until("document.getElementById('said').innerText")
            assert mesh.stopped == stopped, browser.run("document.getElementById('said').innerText")
        browser.until("document.getElementById('said').innerText.startsWith('Asked for')")
        mesh.change("net-0462", phase="done", finished=time.time(), waiting="")
        browser.until("document.querySelector('[data-live=head]').innerText.startsWith('done')")
        browser.until("!document.querySelector('[data-stop]')")
        assert browser.problems == []


@pytest.mark.parametrize("role", ["client", "operator", "monitor"])
def test_it_needs_no_more_rights_than_its_role_has(node: Broker, role: str) -> None:
    board = Board()
    coordinator = Link(node.url("coordinator"), "coordinator")
    coordinator.start()
    with Feed(node.url(role), board):  # type: ignore[arg-type]
        heard = JobEvent(job="net-0002", kind="progress", at=1.0, progress=job(2))
        event = Outgoing(
            exchange=topology.EVENTS,
            key=topology.event_key("", "net-0002", "progress"),
            body=codec.encode(heard),
            message_id="1",
            type="job-event",
            mandatory=False,
        )

        def arrived() -> bool:
            coordinator.publish(event).result(5.0)
            return bool(board.view().jobs)

        assert until(arrived)
        assert board.view().link.may_ask == (role != "monitor")
    coordinator.close()
