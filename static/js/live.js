// Keeps the list of accounts true without a reload: every 15 seconds, while somebody can see it, it requests the same
// page, and replaces the parts (data-live) that have changed.

const SECONDS = 15;
const news = document.getElementById("news");
let wasLost = false;
let tag = ""; // of the youngest copy: the server sends no other one while nothing has changed

const parts = (page) => [...page.querySelectorAll("[data-live]")];
// What is announced when it changes: numbers and states, not the minutes that pass.
const states = (page) =>
  [...page.querySelectorAll("#summary, #strip nav, #list .badge")].map((one) => one.textContent.trim()).join("\n");

// Keeps ticks, and the focus on the same link or box. Returns false, and replaces nothing, while text in the part is
// selected, or if what has the focus is gone.
function replace(old, fresh) {
  if (old.innerHTML === fresh.innerHTML) return;
  for (const box of old.querySelectorAll(":checked")) {
    const same = fresh.querySelector(`[name="${box.name}"][value="${box.value}"]`);
    if (same) same.checked = true;
  }
  const selection = document.getSelection();
  if (!selection.isCollapsed && old.contains(selection.anchorNode)) return false;
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const nameOf = (one) => one.getAttribute("href") ?? one.value;
  const twin = focused && [...fresh.querySelectorAll("a, input")].find((one) => nameOf(one) === nameOf(focused));
  if (focused && !twin) return false;
  old.replaceWith(fresh);
  twin?.focus({ preventScroll: true });
}

async function refresh() {
  const headers = { "X-Live": "1", ...(tag && { "If-None-Match": tag }) };
  const answer = await fetch(location.href, { headers, redirect: "error", cache: "no-store" });
  if (answer.status === 304) return found();
  if (!answer.ok) throw new TypeError(answer.status);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.dispatchEvent(new CustomEvent("fresh", { detail: page }));
  if (parts(page).map((one) => one.id).join() !== parts(document).map((one) => one.id).join()) return location.reload();
  const before = states(document);
  const taken = parts(page).map((fresh) => replace(document.getElementById(fresh.id), document.adoptNode(fresh)));
  tag = taken.includes(false) ? "" : answer.headers.get("ETag");
  if (states(document) !== before) {
    const summary = document.getElementById("summary").textContent.trim();
    news.textContent = `Updated at ${new Date().toLocaleTimeString()}: ${summary}`;
    wasLost = false;
  }
  found();
}

function found() {
  if (wasLost) news.textContent = "";
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
