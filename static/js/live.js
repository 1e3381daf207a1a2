// The list of accounts stays true without a reload: every 15 seconds, while somebody can see it, the same page is asked
// for once more, and its parts (data-live) that have changed take the place of the old ones.

const SECONDS = 15;
const news = document.getElementById("news");
let wasLost = false;

const parts = (page) => [...page.querySelectorAll("[data-live]")];
// What is worth a word: numbers and states, not the minutes that pass.
const states = (page) =>
  [...page.querySelectorAll("#summary, #strip nav, #list .badge")].map((one) => one.textContent.trim()).join("\n");

// The same link, or what unfolds the same section.
const isTwin = (one, other) =>
  one.tagName === other.tagName &&
  one.getAttribute("href") === other.getAttribute("href") &&
  one.closest("section")?.getAttribute("aria-labelledby") === other.closest("section")?.getAttribute("aria-labelledby");

// Whoever is reading a part keeps it: its tables stay unfolded, a selection stays, focus goes to the same link.
function replace(old, fresh) {
  old.querySelectorAll("details").forEach((one, number) => {
    const twin = fresh.querySelectorAll("details")[number];
    if (twin) twin.open = one.open;
  });
  if (old.innerHTML === fresh.innerHTML) return;
  const selection = document.getSelection();
  if (!selection.isCollapsed && old.contains(selection.anchorNode)) return;
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const twin = focused && [...fresh.querySelectorAll("a, summary")].find((one) => isTwin(one, focused));
  if (focused && !twin) return;
  old.replaceWith(fresh);
  twin?.focus({ preventScroll: true });
}

async function refresh() {
  const answer = await fetch(location.href, { headers: { "X-Live": "1" }, redirect: "error" });
  if (!answer.ok) throw new TypeError(answer.status);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (parts(page).map((one) => one.id).join() !== parts(document).map((one) => one.id).join()) return location.reload();
  const before = states(document);
  for (const fresh of parts(page)) replace(document.getElementById(fresh.id), document.adoptNode(fresh));
  if (states(document) !== before) {
    const summary = document.getElementById("summary").textContent.trim();
    news.textContent = `Updated at ${new Date().toLocaleTimeString()}: ${summary}`;
  } else if (wasLost) news.textContent = "";
  wasLost = false;
}

setInterval(() => {
  if (document.hidden) return;
  refresh().catch((error) => {
    if (!(error instanceof TypeError)) throw error;
    if (!wasLost) news.textContent = "This list is as old as the page: no answer, or you are signed out. Reload it.";
    wasLost = true;
  });
}, SECONDS * 1000);
