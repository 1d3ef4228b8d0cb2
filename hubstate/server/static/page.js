// What every page does once its document is there. A page works without any of this; each part only adds to it.
import { keepTimes } from "./times.js";
import { offerCopies } from "./copy.js";

document.documentElement.classList.add("scripted");
keepTimes();
offerCopies();

// Forms that end something ask once more.
document.addEventListener("submit", (event) => {
  const question = event.target.dataset?.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});

// A room is loaded only by the pages that have it.
const rooms = [
  ["#list, #nothing-yet", "./list.js"],
  ["#session", "./session.js"],
  ["#overlays", "./compare.js"],
];
for (const [selector, room] of rooms) {
  if (document.querySelector(selector)) import(room);
}
