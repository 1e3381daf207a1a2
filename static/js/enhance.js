// Small comforts. Every page works without them; each finds its elements by a data- attribute.

// data-copy="<id of an input>": a button that copies what the input holds.
for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) break;
  const input = document.getElementById(button.dataset.copy);
  const label = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(input.value);
      button.textContent = "Copied";
    } catch {
      input.select();
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => {
      button.textContent = label;
    }, 2000);
  });
}

// data-once: a form that is sent once, however often its button is pressed while the answer is on its way.
for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.once === "sent") {
      event.preventDefault();
      return;
    }
    form.dataset.once = "sent";
    event.submitter?.setAttribute("aria-disabled", "true");
  });
}

// Back shows the page as it was left: let its forms be sent again.
window.addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  for (const form of document.querySelectorAll("form[data-once]")) form.dataset.once = "";
  for (const button of document.querySelectorAll("button[aria-disabled]")) button.removeAttribute("aria-disabled");
});

// data-secret="<id of an input>": a value for one look. It is gone after data-seconds, and when the page is left; a
// reload shows data-page-url instead of sending the form again.
for (const box of document.querySelectorAll("[data-secret]")) {
  const input = document.getElementById(box.dataset.secret);
  const word = box.querySelector("[role=status]");
  const hide = (text) => {
    input.value = "";
    input.disabled = true;
    box.querySelector("[data-copy]").hidden = true;
    word.textContent = text;
  };
  history.replaceState(null, "", box.dataset.pageUrl);
  window.addEventListener("pagehide", () => hide("It was shown once, and is gone from this page."));
  if (!box.dataset.seconds) continue;
  word.textContent = `It hides itself after ${box.dataset.seconds} seconds.`;
  setTimeout(() => hide("Hidden again."), box.dataset.seconds * 1000);
}

// Times in the reader's zone, with UTC on hover. `fresh` brings a newer copy of the page, before it is compared.
const WRITTEN = /\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?( UTC)?/;
function localize(page) {
  if (/^(Etc\/)?UTC$/.test(Intl.DateTimeFormat().resolvedOptions().timeZone)) return;
  for (const time of page.querySelectorAll("time")) {
    const moment = new Date(time.dateTime);
    const shifted = new Date(moment - moment.getTimezoneOffset() * 60_000);
    const local = shifted.toISOString().slice(0, 19).replace("T", " ");
    const utc = `${time.dateTime.slice(0, 19).replace("T", " ")} UTC`;
    let isWritten = false;
    for (const node of [...time.childNodes, ...(time.firstElementChild?.childNodes ?? [])]) {
      if (node.nodeType !== Node.TEXT_NODE || !WRITTEN.test(node.data)) continue;
      node.data = node.data.replace(WRITTEN, (whole) => local.slice(0, whole.replace(" UTC", "").length));
      isWritten = true;
    }
    time.title = isWritten ? utc : `${local} (${utc})`;
  }
  for (const head of page.querySelectorAll("th")) {
    if (head.textContent.endsWith(", UTC")) head.textContent = head.textContent.slice(0, -5);
  }
  for (const cell of page.querySelectorAll("[data-label$=', UTC']")) {
    cell.dataset.label = cell.dataset.label.slice(0, -5);
  }
}
localize(document);
document.addEventListener("fresh", (event) => localize(event.detail));

// data-copies, and ids and addresses in the list: a click copies the text.
document.addEventListener("click", async ({ target }) => {
  const place = target.closest("[data-copies], .one-line div small");
  if (!place || !navigator.clipboard || !document.getSelection().isCollapsed) return;
  const text = place.textContent;
  await navigator.clipboard.writeText(text);
  place.textContent = "Copied";
  setTimeout(() => {
    place.textContent = text;
  }, 1000);
});

// data-back: a link to the list leads to the page of it that was seen last in this tab, and to the same row there.
for (const link of document.querySelectorAll("[data-back]")) {
  link.href = sessionStorage.getItem(link.pathname) ?? link.href;
  link.addEventListener("click", () => sessionStorage.setItem("returns", "1"));
}

// Keys, on the pages of admins: which ones a page has follows from what is on it. Single keys get in the way of speech
// control, so they can be switched off.
const keys = document.getElementById("keys");
if (keys) {
  const isOn = keys.querySelector("input");
  isOn.checked = localStorage.getItem("keys") !== "off";
  isOn.addEventListener("change", () => localStorage.setItem("keys", isOn.checked ? "on" : "off"));
  const opener = document.querySelector("[data-keys]");
  opener.addEventListener("click", show);

  function show() {
    for (const term of keys.querySelectorAll("dt")) {
      term.hidden = term.nextElementSibling.hidden = term.textContent !== "?" && !find(term.textContent[0]);
    }
    keys.showModal();
  }

  const ROW = ".accounts tbody tr, .rows li";
  function move(step) {
    const links = [...document.querySelectorAll(ROW)].map((one) => one.querySelector("a")).filter(Boolean);
    const at = links.findIndex((one) => one.closest(ROW).contains(document.activeElement));
    links[at < 0 ? 0 : Math.min(Math.max(at + step, 0), links.length - 1)].focus();
  }

  // What a key needs on the page, and what it does with that.
  const ACTS = {
    "/": ["[type=search]", (field) => field.focus()],
    j: [`:is(${ROW}) a`, () => move(1)],
    k: [`:is(${ROW}) a`, () => move(-1)],
    x: [".one-line [type=checkbox]", () => document.activeElement.closest("tr")?.querySelector("[type=checkbox]")?.click()],
    u: [".trail a", (link) => link.click()],
    "?": ["#keys", show],
  };
  const find = (key) => document.querySelector(ACTS[key][0]);
  opener.hidden = !Object.keys(ACTS).some((key) => key !== "?" && find(key));

  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.matches("input:not([type=checkbox], [type=radio]), textarea, select");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !isOn.checked || keys.open) return;
    const found = event.key in ACTS && !opener.hidden && find(event.key);
    if (!found) return;
    event.preventDefault();
    ACTS[event.key][1](found);
  });
}
