"use strict";
(() => {
  // An answer is [units it begins with like the baseline's, the rest, tokens, stop, token of the
  // fork, lead there, is it a tie, right, faults]; the baseline's begins with 0 units.
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("filter");
  const list = document.getElementById("list");
  const status = document.getElementById("status");
  const CHUNK = 25;
  const SHOWS = ["all", "differs", "flipped", "looped", "faulty"];
  const texts = [];
  let found = [];
  let drawn = 0;
  let current = -1;

  const at = (variant, prompt) => data.answers[variant] && data.answers[variant][prompt];
  const textOf = (variant, prompt) => {
    const answer = at(variant, prompt);
    return at(0, prompt)[1].slice(0, answer[0]) + answer[1];
  };
  const chosen = () => {
    const wanted = form.elements.variant.value;
    const all = data.variants.map((_, index) => index).slice(1);
    return (wanted ? [Number(wanted)] : all).filter((variant) => data.answers[variant]);
  };
  const element = (name, kind, text) => {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const fits = {
    all: () => true,
    differs: (variants, prompt) => variants.some((v) => at(v, prompt)[4] !== null),
    flipped: (variants, prompt) =>
      variants.some((v) => at(v, prompt)[7] !== at(0, prompt)[7]),
    looped: (variants, prompt) =>
      [0, ...variants].some((v) => at(v, prompt)[8].includes("loops")),
    faulty: (variants, prompt) =>
      [0, ...variants].some((v) => at(v, prompt)[8].some((fault) => fault !== "loops")),
  };
  const rank = {
    telling: (variants, prompt) =>
      Math.max(-1, ...variants.map((v) => {
        const answer = at(v, prompt);
        return answer[4] === null ? -1 : (answer[5] || 0) + (at(0, prompt)[7] && !answer[7] ? 1e6 : 0);
      })),
    longest: (variants, prompt) => Math.max(...[0, ...variants].map((v) => at(v, prompt)[2])),
  };
  const searched = (prompt) => {
    if (texts[prompt] === undefined) {
      const answers = data.answers.map((one, v) => (one ? textOf(v, prompt) : ""));
      const turns = data.prompts[prompt].turns.map((turn) => turn[1]);
      texts[prompt] = [...turns, ...answers].join("\n").toLowerCase();
    }
    return texts[prompt];
  };

  const marked = (text, units) => {
    const block = element("div", "text");
    block.dir = "auto";
    if (units === null) {
      block.textContent = text || "(empty)";
      return block;
    }
    const mark = element("span", "fork", "▸");
    mark.setAttribute("aria-hidden", "true");
    block.append(text.slice(0, units), mark, element("span", "after", text.slice(units)));
    return block;
  };
  const facts = (answer) => {
    const words = [`${answer[2]} tokens${answer[3] === "length" ? ", cut" : ""}`];
    if (answer[4] !== null && answer[4] !== undefined) {
      const lead = answer[5] === null ? "" : `, baseline led by ${answer[5]}`;
      words.push(`parts at token ${answer[4] + 1}${lead}${answer[6] ? " (a tie)" : ""}`);
    }
    return [...words, ...answer[8]].join(" · ");
  };
  const column = (variant, prompt, units) => {
    const answer = at(variant, prompt);
    const made = element("section", "answer");
    const head = element("h4", "", data.variants[variant]);
    if (answer[7] !== null) {
      head.append(" ", element("span", answer[7] ? "right" : "wrong", answer[7] ? "right" : "wrong"));
    }
    made.append(head, element("p", "facts", facts(answer)), marked(textOf(variant, prompt), units));
    return made;
  };
  const article = (prompt) => {
    const { turns, wanted } = data.prompts[prompt];
    const made = element("article");
    made.tabIndex = -1;
    const head = element("h3", "", `Prompt ${prompt + 1}`);
    head.id = `prompt-${prompt}`;
    made.setAttribute("aria-labelledby", head.id);
    const asked = element("div", "asked");
    for (const [role, content] of turns) {
      if (role) asked.append(element("b", "", role));
      const text = element("div", "", content);
      text.dir = "auto";
      asked.append(text);
    }
    made.append(head, asked);
    if (wanted) made.append(element("p", "wanted note", wanted));
    const columns = element("div", "columns");
    const variants = chosen();
    const forks = variants.map((v) => at(v, prompt)).filter((answer) => answer[4] !== null);
    const first = forks.length ? Math.min(...forks.map((answer) => answer[0])) : null;
    columns.append(column(0, prompt, first));
    for (const variant of variants) {
      const answer = at(variant, prompt);
      columns.append(column(variant, prompt, answer[4] === null ? null : answer[0]));
    }
    made.append(columns);
    return made;
  };

  const draw = (least) => {
    const end = Math.min(found.length, Math.max(least, drawn + CHUNK));
    const batch = document.createDocumentFragment();
    for (; drawn < end; drawn += 1) batch.append(article(found[drawn]));
    list.append(batch);
  };
  const apply = () => {
    const variants = chosen();
    const words = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fit = fits[form.elements.show.value];
    found = data.prompts.map((_, index) => index).filter(
      (prompt) => fit(variants, prompt) && words.every((word) => searched(prompt).includes(word)),
    );
    const order = rank[form.elements.order.value];
    if (order) {
      const ranks = new Map(found.map((prompt) => [prompt, order(variants, prompt)]));
      found.sort((one, other) => ranks.get(other) - ranks.get(one) || one - other);
    }
    list.replaceChildren();
    drawn = 0;
    current = -1;
    draw(0);
    status.textContent = `${found.length} of ${data.prompts.length} prompts`;
  };
  const go = (step) => {
    const next = Math.max(0, Math.min(found.length - 1, current + step));
    if (!found.length) return;
    draw(next + 1);
    current = next;
    list.children[next].focus({ preventScroll: true });
    list.children[next].scrollIntoView({ block: "start" });
  };
  const turn = (name) => {
    const select = form.elements[name];
    select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
    apply();
  };
  const show = (index) => {
    const wanted = SHOWS[index];
    if (![...form.elements.show.options].some((option) => option.value === wanted)) return;
    form.elements.show.value = wanted;
    apply();
  };
  const keys = {
    j: () => go(1), k: () => go(-1), v: () => turn("variant"), o: () => turn("order"),
    a: () => show(0), d: () => show(1), f: () => show(2), l: () => show(3),
    "/": () => form.elements.words.focus(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && event.target === form.elements.words) event.target.blur();
    const typing = event.target.matches("input, select, textarea");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  new IntersectionObserver(
    (entries) => { if (entries.some((entry) => entry.isIntersecting)) draw(0); },
    { rootMargin: "1200px" },
  ).observe(document.getElementById("end"));
  form.hidden = false;
  apply();
})();
