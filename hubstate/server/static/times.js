// "3 min ago" goes on while the page is open. The hub wrote the first words; these are the same (see words.py).
const UNITS = [[86400, "d"], [3600, "h"], [60, "min"]];
// This machine's clock may be wrong. What counts is how long ago it was when the hub said so, so the hub's own words
// tell the difference between the two clocks.
let ahead = null;

function ago(seconds) {
  const passed = Math.max(0, Math.floor(seconds));
  for (const [size, unit] of UNITS) {
    if (passed >= size) return `${Math.floor(passed / size)} ${unit} ago`;
  }
  return `${passed} s ago`;
}

// The hub's "N s ago" of something recent dates the page; without one, the clocks are taken to agree.
function clockDifference(times) {
  for (const time of times) {
    const told = /^(\d+) s ago$/.exec(time.textContent);
    if (told) return Date.now() / 1000 - (Date.parse(time.dateTime) / 1000 + Number(told[1]));
  }
  return null;
}

export function showTimes(root = document) {
  const times = root.querySelectorAll("time[datetime]");
  ahead ??= clockDifference(times);
  const now = Date.now() / 1000 - (ahead ?? 0);
  for (const time of times) {
    const at = Date.parse(time.dateTime) / 1000;
    if (Number.isNaN(at)) continue;
    const told = ago(now - at);
    if (time.textContent !== told) time.textContent = told;
  }
}

export function keepTimes() {
  showTimes();
  setInterval(() => {
    if (!document.hidden) showTimes();
  }, 1000);
}
