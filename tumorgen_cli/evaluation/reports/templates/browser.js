// Filters and orders the pairs, shows one of them large, and moves through them with keys.
"use strict";
document.documentElement.classList.add("js");
const browser = (() => {
  const list = document.getElementById("pairs");
  const stage = document.getElementById("stage");
  const tools = document.getElementById("tools");
  const all = [...list.querySelectorAll(".pair")];
  let shown = all;
  let current = null;

  function passes(pair) {
    const { low, high, size, kind } = tools.elements;
    const kinds = pair.dataset.kinds ? pair.dataset.kinds.split("|") : [];
    const dice = pair.dataset.dice === "" ? NaN : Number(pair.dataset.dice);
    if (low && (Number(low.value) > 0 || Number(high.value) < 1)) {
      if (!(dice >= Number(low.value) && dice <= Number(high.value))) return false;
    }
    if (size.value && pair.dataset.size !== size.value) return false;
    if (kind.value === "-") return kinds.length === 0;
    if (kind.value === "3d") return pair.querySelector(".in3d") !== null;
    return !kind.value || kinds.includes(kind.value);
  }

  function order(a, b) {
    const by = tools.elements.order.value;
    if (by === "ml") return b.dataset.ml - a.dataset.ml;
    if (by === "case") return a.dataset.case.localeCompare(b.dataset.case, "en", { numeric: true });
    return a.dataset.rank - b.dataset.rank;
  }

  function filter() {
    shown = all.filter(passes).sort(order);
    all.forEach((pair) => { pair.hidden = !shown.includes(pair); });
    list.append(...shown);
    document.getElementById("count").textContent = `${shown.length} of ${all.length} shown`;
    select(shown.includes(current) ? current : shown[0] || null);
  }

  function select(pair) {
    if (current) current.removeAttribute("aria-current");
    current = pair;
    stage.replaceChildren();
    if (pair) {
      const copy = pair.cloneNode(true);
      ["tabindex", "role", "aria-label"].forEach((name) => copy.removeAttribute(name));
      stage.append(copy);
      pair.setAttribute("aria-current", "true");
      // within the list only: the page itself must not jump
      const top = pair.offsetTop - list.offsetTop;
      if (top < list.scrollTop || top + pair.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = top;
    }
  }

  function show(what) {
    tools.elements.show.value = what;
    list.dataset.show = stage.dataset.show = what;
    document.dispatchEvent(new CustomEvent("pairs:show", { detail: what }));
  }

  function move(by) {
    const next = shown[shown.indexOf(current) + by];
    if (next) select(next);
  }

  function press(key) {
    if (key === "ArrowRight") move(1);
    else if (key === "ArrowLeft") move(-1);
    else if (key === "b") show("before");
    else if (key === "a") show("after");
    else if (key === "m") show("mask");
    else if (key === "v") document.dispatchEvent(new CustomEvent("pairs:view", { detail: current && current.dataset.case }));
    else if (key === "Escape") document.dispatchEvent(new CustomEvent("pairs:close"));
    else return false;
    return true;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input:not([type=radio]), select, textarea, canvas") && event.key !== "Escape") return;
    const pair = event.target.closest("#pairs .pair");
    if (pair && (event.key === "Enter" || event.key === " ")) {
      select(pair);
      event.preventDefault();
    } else if (press(event.key)) event.preventDefault();
  });
  document.querySelectorAll("[data-key]").forEach((button) => button.addEventListener("click", () => press(button.dataset.key)));
  list.addEventListener("click", (event) => {
    const pair = event.target.closest(".pair");
    if (pair && !event.target.closest("a")) select(pair);
  });
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("input", (event) => {
    if (event.target.name === "show") show(event.target.value);
    else filter();
  });
  filter();
  show("mask");
  return { select, current: () => current && current.dataset.case };
})();
