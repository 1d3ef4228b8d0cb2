// One stream of events for a page. Each event carries the position that the page has reached with it; whoever comes
// back names the last one, so nothing is missed and nothing comes twice.
//
// A page in the background lets go of its stream: a browser opens only six connections to a hub, and seven pages in
// tabs would otherwise wait for each other. When it comes to the front again it goes on from its position.
import { showTimes } from "./times.js";

const AGAIN_MS = 3000;

export class Stream {
  // `take` is given what each event tells. `position`: that of the page as it was loaded.
  constructor(address, position, take) {
    this.address = address;
    this.position = position;
    this.take = take;
    this.source = null;
    this.timer = null;
    this.onVisibility = () => (document.hidden ? this.pause() : this.open());
    document.addEventListener("visibilitychange", this.onVisibility);
    if (!document.hidden) this.open();
  }

  open() {
    this.pause();
    const address = new URL(this.address, location.href);
    address.searchParams.set("after", this.position);
    this.source = new EventSource(address);
    this.source.addEventListener("open", () => tell("live"));
    this.source.addEventListener("message", (event) => {
      this.take(JSON.parse(event.data));
      this.position = event.lastEventId;
    });
    this.source.addEventListener("gone", () => location.reload());
    this.source.addEventListener("error", () => this.onError());
  }

  onError() {
    tell("reconnecting");
    // The browser comes back by itself, but not after an answer that was no stream.
    if (this.source?.readyState !== EventSource.CLOSED) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.comeBack(), AGAIN_MS);
  }

  async comeBack() {
    let answer;
    try {
      answer = await fetch(location.href, { redirect: "manual" });
    } catch (unreachable) {
      this.onError();
      return;
    }
    // Logged out, or deleted: the page itself tells that better.
    if (answer.type === "opaqueredirect" || answer.status === 404) location.reload();
    else this.open();
  }

  pause() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  close() {
    this.pause();
    document.removeEventListener("visibilitychange", this.onVisibility);
  }
}

function tell(state) {
  const place = document.getElementById("link-state");
  if (!place || place.dataset.state === state) return;
  place.dataset.state = state;
  place.textContent = state === "live" ? "live" : "no answer, trying again";
}

const FOCUSABLE = "a[href], button, input, select, summary, [tabindex]";

// What a control is, wherever it stands among the others.
function nameOf(control) {
  const { name, value, ariaLabel, textContent } = control;
  return control.getAttribute("href") ?? ariaLabel ?? [name, value, textContent].join(" ");
}

// Remembers which control of an element has the focus; what it gives puts the focus on the same one of what came in its
// place. Where that one is gone nothing has it: on another one Enter would do what nobody meant.
export function focusOf(element) {
  const held = document.activeElement;
  if (!element.contains(held) || !held.matches(FOCUSABLE)) return () => {};
  const mine = nameOf(held);
  return (now) => {
    const found = [...now.querySelectorAll(FOCUSABLE)].find((control) => nameOf(control) === mine);
    found?.focus({ preventScroll: true });
  };
}

// Puts new content into an element, and the reader stays where they were: scrolled, with what they opened open, and with
// the focus on the same thing.
export function replace(element, html) {
  const scrolled = [...element.querySelectorAll(".wide")].map((box) => [box.scrollLeft, box.scrollTop]);
  const refocus = focusOf(element);
  const open = [...element.querySelectorAll("details")].map((box) => box.open);
  element.innerHTML = html;
  showTimes(element);
  element.querySelectorAll("details").forEach((box, n) => {
    if (open[n]) box.open = true;
  });
  element.querySelectorAll(".wide").forEach((box, n) => {
    if (scrolled[n]) [box.scrollLeft, box.scrollTop] = scrolled[n];
  });
  refocus(element);
}
