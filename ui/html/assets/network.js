// Stands first in every page: each request that changes something carries the page's token, and what the server no longer answers is said.
(() => {
  "use strict";
  const HEADER = "x-icr-token", ASK_AGAIN_MS = 2000;
  let token = (document.querySelector("meta[name=icr-token]") || {}).content || "";
  const plain = window.fetch.bind(window);

  const renewed = async () => {
    const answer = await plain("/icr/token", { cache: "no-store" });
    if (answer.ok) token = (await answer.json()).token;
    return answer.ok;
  };

  const notice = (text, place) => {
    let bar = document.getElementById("icr-notice");
    if (!text) {
      if (bar) bar.remove();
      return;
    }
    if (!bar) {
      bar = document.createElement("div");
      bar.id = "icr-notice";
      bar.setAttribute("role", "alert");
      document.body.prepend(bar);
    }
    bar.textContent = text;
    if (place) {
      const link = document.createElement("a");
      Object.assign(link, { href: place, target: "_blank", textContent: " Log in again" });
      bar.append(link);
    }
  };

  let isAway = false;
  const away = () => {
    if (isAway) return;
    isAway = true;
    notice("The inspector does not answer. This page asks again until it does; what was not confirmed as saved must be sent again.");
    const ask = async () => {
      try {
        await renewed();
      } catch (error) {
        setTimeout(ask, ASK_AGAIN_MS);
        return;
      }
      isAway = false;
      notice("");
      window.dispatchEvent(new Event("icr-back"));
    };
    setTimeout(ask, ASK_AGAIN_MS);
  };

  window.fetch = async (input, init) => {
    const address = new URL(input instanceof Request ? input.url : input, location.href);
    const method = ((init && init.method) || (input instanceof Request && input.method) || "GET").toUpperCase();
    if (address.origin !== location.origin || method === "GET" || method === "HEAD") return plain(input, init);
    const send = () => {
      const headers = new Headers((init && init.headers) || (input instanceof Request ? input.headers : {}));
      headers.set(HEADER, token);
      return plain(input instanceof Request ? input.clone() : input, { ...init, headers });
    };
    let answer;
    try {
      answer = await send();
      // The server was started anew, or a week has passed: nothing was done, so the request may be sent again.
      if (answer.status === 403 && answer.headers.has(HEADER) && (await renewed())) answer = await send();
    } catch (error) {
      if (!(init && init.signal && init.signal.aborted)) away();
      throw error;
    }
    if (answer.status === 401) notice("You are no longer logged in; nothing was saved. Log in, then do it again here.", "/login");
    else if (!isAway) notice("");
    return answer;
  };

  // A page that says that a store is away asks again, more and more rarely, and once the inspector itself is back.
  let shown = null, asked = 0, timer = null;
  const askAgain = () => {
    if (document.hidden || !window.icrGo) timer = setTimeout(askAgain, ASK_AGAIN_MS);
    else window.icrGo(location.search);
  };
  const look = () => {
    const page = document.querySelector(".icr[data-serial]");
    if (!page || page.dataset.serial === shown) return;
    shown = page.dataset.serial;
    clearTimeout(timer);
    asked = "asksAgain" in page.dataset ? asked + 1 : 0;
    if (asked) timer = setTimeout(askAgain, Math.min(30000, ASK_AGAIN_MS * 1.5 ** (asked - 1)));
  };
  new MutationObserver(look).observe(document, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-serial"] });
  window.addEventListener("icr-back", () => {
    // What somebody has written and not sent stays; she sends it herself.
    const isWritten = [...document.querySelectorAll("textarea")].some((field) => field.offsetParent && field.value.trim());
    if (!isWritten) location.reload();
  });
})();
