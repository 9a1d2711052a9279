// Live updates: the page is loaded again at an even pace, and what is marked with data-live is put
// in place of the old. Everything else works without this script.
"use strict";
(() => {
  const interval = Number(document.body.dataset.interval);
  if (!interval) return;
  const button = document.getElementById("pause-live");
  document.getElementById("live").hidden = false;
  let stopped = false;
  let failures = 0;

  button.addEventListener("click", () => {
    stopped = !stopped;
    button.setAttribute("aria-pressed", String(stopped));
    button.textContent = stopped ? "Go on updating" : "Stop updates";
  });

  // busy reports whether a part of the page is in use : it is left alone then.
  const busy = (part) => {
    const selection = document.getSelection();
    return part.contains(document.activeElement) && document.activeElement !== part ||
      selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  };

  const update = async () => {
    const response = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
    if (!response.ok) throw new Error(response.statusText);
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const now = fresh.querySelector(`[data-live="${CSS.escape(part.dataset.live)}"]`);
      if (!now || busy(part) || part.innerHTML === now.innerHTML) continue;
      part.replaceChildren(...now.childNodes);
    }
  };

  const tick = async () => {
    if (!stopped && !document.hidden) {
      try {
        await update();
        failures = 0;
      } catch {
        failures++;
        document.querySelector("[data-live=made]").textContent = "an earlier time: the console does not answer";
      }
    }
    setTimeout(tick, interval * Math.min(1 + failures, 10));
  };
  setTimeout(tick, interval);
})();
