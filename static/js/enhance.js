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
// reload shows data-page-url instead of sending the form once more.
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
