// The URL is the state: links and filter forms change it, and the page is rendered again from it through Gradio's bus.
(() => {
  "use strict";
  const WAIT_MS = 200, GIVE_UP_MS = 60000;
  let remembered = null, timers = [], isUnderWay = false, next = null;

  const go = (query) => {
    const active = document.activeElement;
    remembered = active && active.name ? { name: active.name, start: active.type === "search" ? active.selectionStart : null } : null;
    busy(true);
    if (!window.icrGo) window.location.reload();
    else if (isUnderWay) next = query;
    else send(query);
  };

  // One page at a time, and of several asked for meanwhile the last: Gradio itself would drop that, or send an old one again.
  const send = (query) => {
    isUnderWay = true;
    window.icrGo(query);
  };

  const busy = (on) => {
    timers.forEach(clearTimeout);
    timers = [];
    document.body.classList.remove("icr-busy", "icr-lost");
    const root = document.querySelector(".icr");
    if (root) root.setAttribute("aria-busy", on);
    if (!on) return;
    timers.push(setTimeout(() => document.body.classList.add("icr-busy"), WAIT_MS));
    timers.push(setTimeout(() => { isUnderWay = false; document.body.classList.add("icr-lost"); }, GIVE_UP_MS));
  };

  const rendered = () => {
    isUnderWay = false;
    if (next !== null) {
      const query = next;
      next = null;
      send(query);
      return;
    }
    busy(false);
    const item = document.querySelector(".icr [data-item]");
    document.body.classList.toggle("icr-nothing", !item);
    if (item && item.dataset.item !== rendered.item) window.scrollTo(0, 0); // the next item is read from its beginning
    rendered.item = item && item.dataset.item;
    const root = document.querySelector(".icr");
    const url = root && root.dataset.url;
    if (url && url !== location.pathname + location.search) history.replaceState(null, "", withTheme(url));
    if (remembered) {
      const field = document.querySelector(`.icr form[data-view] [name="${CSS.escape(remembered.name)}"]`);
      if (field) {
        field.focus({ preventScroll: true });
        if (remembered.start !== null && field.setSelectionRange) field.setSelectionRange(remembered.start, remembered.start);
      }
      remembered = null;
    }
    document.dispatchEvent(new CustomEvent("icr-rendered"));
  };

  const withTheme = (url) => {
    const theme = new URLSearchParams(location.search).get("__theme");
    return theme ? url + (url.includes("?") ? "&" : "?") + "__theme=" + encodeURIComponent(theme) : url;
  };

  document.addEventListener("click", (event) => {
    const toggle = event.target.closest("[data-theme-toggle]");
    if (toggle) {
      const dark = document.body.classList.toggle("dark");
      try { localStorage.setItem("icr-theme", dark ? "dark" : "light"); } catch (error) { /* private window: not remembered */ }
      return;
    }
    const row = event.target.closest(".icr tr:has(a[data-open])");
    if (row && !event.target.closest("a") && !String(window.getSelection())) {
      row.querySelector("a[data-open]").click();
      return;
    }
    const link = event.target.closest(".icr a[href]");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    const place = new URL(link.href, location.href);
    if (place.origin !== location.origin || place.pathname !== location.pathname || place.hash || link.target || !window.icrGo) return;
    event.preventDefault();
    history.pushState(null, "", withTheme(place.pathname + place.search));
    window.scrollTo(0, 0);
    go(place.search);
  });

  const submit = (form, changed) => {
    const resets = changed && "resets" in changed.dataset;
    const cleared = ((changed && changed.dataset.clears) || "").split(" "); // an iteration that another run may not have
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(form)) {
      const kept = (!resets || name === changed.name) && !cleared.includes(name);
      if (value !== "" && kept) query.append(name, value);
    }
    const text = query.toString();
    history.replaceState(null, "", withTheme(location.pathname + (text ? "?" + text : "")));
    go(text ? "?" + text : "");
  };

  document.addEventListener("change", (event) => {
    const form = event.target.closest("form[data-view]");
    if (form && event.target.tagName === "SELECT") submit(form, event.target);
  });
  document.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-view]");
    if (!form) return;
    event.preventDefault();
    submit(form, null);
  });
  window.addEventListener("popstate", () => go(location.search));

  new MutationObserver(() => {
    const root = document.querySelector(".icr");
    if (root && root.dataset.serial !== rendered.serial) {
      rendered.serial = root.dataset.serial;
      rendered();
    }
  }).observe(document.documentElement, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-serial"] });

  document.addEventListener("DOMContentLoaded", () => {
    let theme = null;
    try { theme = localStorage.getItem("icr-theme"); } catch (error) { /* private window */ }
    const asked = new URLSearchParams(location.search).get("__theme");
    if (theme && !asked) setTimeout(() => document.body.classList.toggle("dark", theme === "dark"), 0);
  });
})();
