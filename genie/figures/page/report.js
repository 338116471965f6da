"use strict";
// Shows the cards of the gallery, a page at a time. Text from the data only ever becomes text
// (textContent, attributes), never HTML. Images decode when they come near the window.
(() => {
  const list = document.getElementById("cards");
  if (!list) return;
  const { images, cards } = JSON.parse(document.getElementById("data").textContent);
  const more = document.getElementById("more");
  const form = document.getElementById("filters");
  const PAGE = 12;

  const short = (r) => String(Number(r.toFixed(4)));
  const ratio = (card) => (card.chosen === undefined ? "" : short(card.levels[card.chosen][0]));
  const VALUE = {
    target: (card) => card.target,
    source: (card) => card.source ?? "",
    ratio,
    outcome: (card) => card.outcome,
    choice: (card) => card.choice,
    task: (card) => String(card.task),
  };
  const text = new Intl.Collator("en", { numeric: true }).compare;
  const ORDER = {
    failures: () => 0, // as they come
    unclear: (a, b) => (a.shift_ratio ?? Infinity) - (b.shift_ratio ?? Infinity) || 0,
    class: (a, b) => text(a.target, b.target) || text(a.source ?? "", b.source ?? ""),
  };
  const near = new IntersectionObserver(
    (seen) => seen.some((one) => one.isIntersecting) && append(), { rootMargin: "600px" });
  let shown = cards;

  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  function picture(number, caption, alt, kept = false) {
    const image = make("img", { loading: "lazy", decoding: "async", alt, width: 64, height: 64 });
    image.src = `data:image/webp;base64,${images[number]}`;
    const lines = caption.flatMap((line, i) => (i ? [make("br"), line] : [line]));
    const figure = make("figure", { className: kept ? "kept" : "" }, image, make("figcaption", {}, ...lines));
    figure.title = alt;
    return figure;
  }

  function strip(card) {
    const levels = card.levels.map(([r, image, position, predicted], i) => {
      const kept = i === card.chosen;
      const place = position === null ? "" : `, position ${position.toFixed(2)}`;
      const prediction = predicted ? ", the baseline predicts the target" : "";
      const caption = position === null ? [`r ${short(r)}`] : [`r ${short(r)}`, `d ${position.toFixed(2)}`];
      return picture(image, caption, `r = ${short(r)}${place}${prediction}${kept ? ", kept" : ""}`, kept);
    });
    const source = card.source_image === undefined ? []
      : [picture(card.source_image, ["source"], `source: ${card.source}`)];
    const target = picture(card.target_image, ["real"], `real ${card.target}`);
    return make("div", { className: "strip" }, ...source, ...levels, target);
  }

  const OUTCOME = {
    "other class": (card) => ["bad", `✗ oracle: ${card.verdict} (${card.probability.toFixed(2)})`],
    confirmed: (card) => ["good", `✓ oracle: ${card.verdict} (${card.probability.toFixed(2)})`],
    rejected: () => ["bad", "✗ rejected by the filter"],
    "not judged": () => ["", "not judged by the oracle"],
  };
  const CHOICE = {
    clear: (card) => ["", `clear choice${card.shift_ratio ? ` (${card.shift_ratio.toFixed(2)})` : ""}`],
    unclear: (card) => ["unclear", `unclear choice (${card.shift_ratio.toFixed(2)})`],
    none: () => ["", ""],
  };

  function row(card) {
    const mark = ([className, words]) => make("span", { className }, words);
    const kept = card.chosen === undefined ? [] : [make("span", {}, `r* = ${ratio(card)}`)];
    const marks = [mark(OUTCOME[card.outcome](card)), ...kept, mark(CHOICE[card.choice](card)),
      make("span", {}, `task ${card.task}`)];
    const title = make("h3", {}, `${card.source ?? "noise"} → ${card.target}`);
    return make("li", {}, title, make("div", { className: "marks" }, ...marks), strip(card));
  }

  function append() {
    const from = list.childElementCount;
    const next = shown.slice(from, from + PAGE).map(row);
    list.append(...next);
    more.hidden = list.childElementCount >= shown.length;
    near.unobserve(more); // the observer speaks again at once if the button is still near
    near.observe(more);
    return next[0];
  }

  function update() {
    const filters = Object.keys(VALUE).map((id) => [VALUE[id], document.getElementById(id).value])
      .filter(([, value]) => value !== "");
    shown = cards.filter((card) => filters.every(([of, value]) => of(card) === value));
    const order = document.getElementById("order").value;
    if (order !== "failures") shown.sort(ORDER[order]);
    document.getElementById("count").textContent =
      `${shown.length.toLocaleString("en")} of ${cards.length.toLocaleString("en")} images`;
    list.replaceChildren();
    append();
  }

  for (const [id, of] of Object.entries(VALUE)) {
    const values = [...new Set(cards.map(of))].filter((value) => value !== "").sort(text);
    const options = values.map((value) => make("option", { value, textContent: value }));
    document.getElementById(id).append(...options);
  }
  form.addEventListener("change", update);
  form.addEventListener("reset", () => setTimeout(update));
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const first = append();
    first.tabIndex = -1;
    first.focus();
  });
  update();
})();
