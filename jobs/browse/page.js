// All text comes in by textContent, and images from this server: nothing in here is ever read as HTML.
{
  const PAGE = 120; // rows of a page: whole rows of tiles for many numbers of columns
  const LOADS = 4; // pictures asked for at the same time: browsers allow six requests, and searches need some
  const token = location.pathname.split("/")[1];
  const FIELDS = ["words", "scope", "question", "score_from", "score_to", "spread_from", "spread_to", "day_from", "day_to", "format", "outcome", "sort", "order"];
  const count = (number) => number.toLocaleString("en");
  const points = (value) => (value === null ? "–" : value.toFixed(1));

  // Requests.
  let about = null;
  const address = (name, asked) => `${name}?${new URLSearchParams({ edition: about ? about.edition : 0, ...asked })}`;
  async function answer(response) {
    const data = await response.json();
    if (!response.ok) throw new Error(data.error);
    return data;
  }
  const get = async (name, asked, signal) => answer(await fetch(address(name, asked), { signal }));
  const post = async (name, asked) => answer(await fetch(name, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Artimuse-Token": token },
    body: JSON.stringify({ edition: about.edition, ...asked }),
  }));
  const pictureUrl = (row, size) => address("picture", { number: row.number, size });

  // Pictures are loaded a few at a time, those that are near the window first.
  const waiting = [];
  const busy = new Set();
  function load() {
    while (busy.size < LOADS && waiting.length) {
      const image = waiting.shift();
      if (!image.isConnected) continue;
      busy.add(image);
      const done = () => { busy.delete(image); load(); };
      image.addEventListener("load", () => { image.classList.add("shown"); done(); }, { once: true });
      image.addEventListener("error", () => {
        if (image.isConnected) image.replaceWith(made("span", "gone", "Cannot be shown"));
        done();
      }, { once: true });
      image.src = image.dataset.url;
    }
  }
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      waiting.push(entry.target);
    }
    load();
  }, { rootMargin: "300px 0px" });

  // The search: what the fields say, and what it found.
  const list = byId("pictures");
  let rows = [], total = 0, start = 0, asking = null, asked = {};

  function search() {
    const said = {};
    for (const name of FIELDS) if (byId(name).value !== "") said[name] = byId(name).value;
    if (byId("marked").checked) said.marked = "1";
    return said;
  }

  function remember() {
    const state = new URLSearchParams({ ...search(), page: String(start / PAGE + 1) });
    history.replaceState(null, "", `#${state}`);
  }

  function recall() {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const name of FIELDS) if (state.has(name)) byId(name).value = state.get(name);
    byId("marked").checked = state.get("marked") === "1";
    const page = Number(state.get("page"));
    start = Number.isInteger(page) && page > 0 ? (page - 1) * PAGE : 0;
  }

  function say(text, isTrouble) {
    byId("status").textContent = text;
    byId("status").classList.toggle("trouble", Boolean(isTrouble));
  }

  async function show(from, focus) {
    if (asking) asking.abort();
    const mine = asking = new AbortController();
    asked = search();
    list.classList.add("waiting");
    const slow = setTimeout(() => say(asked.words && asked.scope !== "names" ? "Searching the texts…" : "Searching…"), 250);
    try {
      const found = await get("rows", { ...asked, from, count: PAGE }, mine.signal);
      if (mine !== asking) return;
      if (found.total && from >= found.total) { await show(Math.floor((found.total - 1) / PAGE) * PAGE, focus); return; }
      ({ rows, total } = found);
      start = from;
      fill();
      remember();
      if (focus !== undefined) focusTile(focus < 0 ? rows.length - 1 : focus);
    } catch (error) {
      if (mine === asking && error.name !== "AbortError") say(error.message || "The server does not answer. Start artimuse browse again.", true);
    } finally {
      clearTimeout(slow);
      if (mine === asking) { list.classList.remove("waiting"); asking = null; }
    }
  }

  function fill() {
    near.disconnect();
    waiting.length = 0;
    busy.clear();
    for (const image of list.querySelectorAll("img:not(.shown)")) image.removeAttribute("src");
    list.replaceChildren(...rows.map(tileOf));
    const status = byId("status");
    status.classList.remove("trouble");
    const shown = made("b", "", total ? `${count(start + 1)}–${count(start + rows.length)}` : "0");
    status.replaceChildren(shown, ` of ${count(total)}${total === about.rows ? " pictures" : ` found in ${count(about.rows)} pictures`}`);
    byId("none").hidden = total > 0;
    byId("bottom").hidden = total === 0 && about.marked === 0;
    byId("mark-all").hidden = total === 0 || asked.marked === "1";
    byId("mark-all").textContent = total === 1 ? "Mark it" : `Mark all ${count(total)}`;
    const pages = Math.max(1, Math.ceil(total / PAGE)), page = start / PAGE + 1;
    for (const id of ["page-slider", "page-number"]) { byId(id).max = pages; byId(id).value = page; }
    byId("page-slider").disabled = pages === 1;
    byId("page-count").textContent = `of ${count(pages)}`;
    byId("page-back").disabled = page === 1;
    byId("page-on").disabled = page === pages;
    for (const name of [...FIELDS.slice(3), "marked"]) {
      const field = byId(name);
      const isSet = name === "marked" ? field.checked : !["sort", "order"].includes(name) && field.value !== "";
      field.classList.toggle("set", isSet);
    }
    const set = document.querySelectorAll("#filters .set").length;
    byId("reset").hidden = !set && !asked.words;
    byId("filters-shown").textContent = set ? `Filters (${set})` : "Filters";
  }

  const told = (row) => `${row.id}, ${row.error ? `failed: ${row.error}` : `${points(row.score)} points`}${row.marked ? ", marked" : ""}`;

  function tileOf(row, place) {
    const item = made("li", row.marked ? "marked" : ""), tile = made("button", "tile"), frame = made("span", "frame");
    const line = made("span", "said"), mark = made("button", "mark"), image = made("img"), name = made("span", "name", row.id);
    tile.type = mark.type = "button";
    tile.tabIndex = place ? -1 : 0;
    mark.tabIndex = -1;
    item.dataset.place = place;
    tile.setAttribute("aria-label", told(row));
    mark.setAttribute("aria-label", "Mark");
    mark.setAttribute("aria-pressed", row.marked);
    image.alt = "";
    image.dataset.url = pictureUrl(row, "small");
    near.observe(image);
    frame.append(image);
    line.append(made("b", "", points(row.score)));
    if (row.error) line.append(made("span", "failed", row.error));
    else line.append(made("span", "spread", asked.sort === "date" ? row.day : row.spread === null ? "" : `± ${points(row.spread)}`));
    name.dir = "auto";
    name.title = row.id;
    tile.append(frame, line, name);
    item.append(tile, mark);
    return item;
  }

  const columns = () => Math.max(1, getComputedStyle(list).gridTemplateColumns.split(" ").length);

  function focusTile(place) {
    const tiles = list.querySelectorAll(".tile");
    if (place < 0 || place >= tiles.length) return;
    tiles.forEach((tile) => { tile.tabIndex = -1; });
    tiles[place].tabIndex = 0;
    tiles[place].focus();
    tiles[place].scrollIntoView({ block: "nearest" });
  }

  function page(by, focus) {
    const from = start + by * PAGE;
    if (from < 0 || from >= total) return false;
    if (!viewer.open) scrollTo(0, 0);
    return show(from, focus).then(() => true);
  }

  const placeOf = (target) => {
    const item = target.closest("#pictures li");
    return item ? Number(item.dataset.place) : -1;
  };
  list.addEventListener("click", (event) => {
    const place = placeOf(event.target);
    if (place < 0) return;
    if (event.target.closest(".mark") || event.ctrlKey || event.metaKey) mark(place); else open(place);
  });

  // Marks.
  function marksNow(now) {
    about.marked = now;
    byId("marks").hidden = now === 0;
    byId("marks-count").replaceChildren(`✓ ${count(now)}`, made("span", "", " marked"));
    byId("marks-manifest").href = address("marks.parquet", {});
    if (now) byId("bottom").hidden = false;
  }

  function showMark(place) {
    const row = rows[place], item = list.children[place];
    item.classList.toggle("marked", row.marked);
    item.querySelector(".mark").setAttribute("aria-pressed", row.marked);
    item.querySelector(".tile").setAttribute("aria-label", told(row));
    if (viewer.open && shown === place) viewerMark();
  }

  async function mark(place) {
    const row = rows[place], wanted = !row.marked;
    row.marked = wanted;
    showMark(place);
    try {
      marksNow((await post("mark", { number: row.number, marked: wanted })).marked);
    } catch (error) {
      row.marked = !wanted;
      if (rows[place] === row) showMark(place);
      say(error.message, true);
      if (viewer.open) { byId("viewer-error").hidden = false; byId("viewer-error").textContent = error.message; }
    }
  }

  async function markAll(said, wanted) {
    try {
      marksNow((await post("mark", { search: said, marked: wanted })).marked);
      await show(start);
    } catch (error) {
      say(error.message, true);
    }
  }
  byId("mark-all").addEventListener("click", () => {
    if (total <= PAGE || confirm(`Mark ${count(total)} pictures?`)) markAll(asked, true);
  });
  byId("marks-clear").addEventListener("click", () => {
    const { question } = search();
    if (confirm(`Take the marks of ${count(about.marked)} pictures away?`)) {
      markAll({ marked: "1", ...(question ? { question } : {}) }, false).then(() => { if (byId("marked").checked) reset(); });
    }
  });
  byId("marks-show").addEventListener("click", () => { reset(true); });

  const stars = byId("stars");
  byId("marks-stars").addEventListener("click", () => {
    byId("stars-title").textContent = about.marked === 1 ? "Stars for the marked picture" : `Stars for ${count(about.marked)} marked pictures`;
    byId("stars-result").textContent = "";
    byId("stars-write").disabled = false;
    stars.showModal();
  });
  byId("stars-close").addEventListener("click", () => stars.close());
  byId("stars-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const wanted = new FormData(event.target).get("stars");
    byId("stars-write").disabled = true;
    byId("stars-result").textContent = "Writing…";
    try {
      const done = await post("stars", { stars: Number(wanted), overwrite: byId("stars-overwrite").checked });
      byId("stars-result").textContent = done.lines.join("\n");
    } catch (error) {
      byId("stars-result").textContent = error.message;
    }
    byId("stars-write").disabled = false;
  });

  // The viewer.
  const viewer = byId("viewer");
  let shown = 0, telling = null;

  function viewerMark() {
    const button = byId("viewer-mark");
    button.setAttribute("aria-pressed", rows[shown].marked);
    button.textContent = rows[shown].marked ? "✓ Marked" : "Mark";
  }

  function showPicture(row) {
    const frame = byId("viewer-picture"), small = made("img"), large = made("img");
    small.alt = "";
    small.src = pictureUrl(row, "small"); // at once, until the large one is there
    large.alt = row.id;
    large.hidden = true;
    large.addEventListener("load", () => { large.hidden = false; small.remove(); });
    large.addEventListener("error", async () => {
      const url = large.getAttribute("src");
      const reason = await get("picture", { number: row.number, size: "large" }).then(() => "", (error) => error.message);
      if (large.isConnected && url === large.getAttribute("src")) frame.replaceChildren(made("span", "gone", reason || "Cannot be shown"));
    });
    small.addEventListener("error", () => small.remove());
    large.src = pictureUrl(row, "large");
    frame.replaceChildren(small, large);
  }

  async function view(place) {
    shown = place;
    const row = rows[place], at = start + place;
    byId("viewer-place").textContent = `${count(at + 1)} of ${count(total)}`;
    byId("previous").disabled = at === 0;
    byId("next").disabled = at === total - 1;
    viewerMark();
    showPicture(row);
    byId("viewer-name").textContent = row.id;
    if (telling) telling.abort();
    const mine = telling = new AbortController();
    try {
      const one = await get("one", { number: row.number }, mine.signal);
      if (mine !== telling) return;
      const name = byId("viewer-name");
      name.replaceChildren();
      longText(name, one.id, "span");
      byId("viewer-error").hidden = one.error === null;
      byId("viewer-error").textContent = one.error || "";
      pairs(byId("viewer-scores"), one.scores, (value, [, score, spread]) => {
        value.append(score.toFixed(2));
        if (spread !== null) value.append(made("small", "", ` ± ${spread.toFixed(2)}`));
      });
      pairs(byId("viewer-facts"), one.facts, (value, [, fact]) => longText(value, fact, "bdi"));
      const texts = byId("viewer-texts");
      texts.replaceChildren();
      for (const [title, text] of one.texts) {
        texts.append(made("h3", "", title));
        longText(texts, text, "p");
      }
      document.querySelector(".told").scrollTop = 0;
      document.querySelector(".viewer-body").scrollTop = 0;
    } catch (error) {
      if (mine === telling && error.name !== "AbortError") { byId("viewer-error").hidden = false; byId("viewer-error").textContent = error.message; }
    }
  }

  function open(place) {
    viewer.showModal();
    byId("viewer-name").focus();
    view(place);
  }

  async function turn(by) {
    const place = shown + by;
    if (place >= 0 && place < rows.length) view(place);
    else if (!asking && await page(by)) view(by > 0 ? 0 : rows.length - 1);
  }

  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("close").addEventListener("click", () => viewer.close());
  byId("viewer-mark").addEventListener("click", () => mark(shown));
  for (const dialog of [viewer, stars]) dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  viewer.addEventListener("close", () => { byId("viewer-picture").replaceChildren(); focusTile(shown); });

  // Keys.
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || stars.open) return;
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "Escape" && typing) { event.target.blur(); event.preventDefault(); return; }
    if (typing) return;
    if (viewer.open) {
      if (event.key === "ArrowLeft") turn(-1);
      else if (event.key === "ArrowRight") turn(1);
      else if (event.key === "m") mark(shown);
      else return;
      event.preventDefault();
      return;
    }
    const place = placeOf(event.target), wide = columns();
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -wide, ArrowDown: wide };
    if (event.key === "/") byId("words").focus();
    else if (event.key === "n") page(1, 0);
    else if (event.key === "p") page(-1, 0);
    else if (event.key === "m" && place >= 0) mark(place);
    else if (event.key === "Home" && place >= 0) focusTile(0);
    else if (event.key === "End" && place >= 0) focusTile(rows.length - 1);
    else if (event.key in steps) {
      const to = place < 0 ? 0 : place + steps[event.key];
      if (to < 0) page(-1, -1);
      else if (to >= rows.length) page(1, 0);
      else focusTile(to);
    } else return;
    event.preventDefault();
  });

  // Fields.
  let later = 0;
  const soon = (wait) => { clearTimeout(later); later = setTimeout(() => show(0), wait); };
  byId("words").addEventListener("input", () => soon(byId("scope").value === "names" ? 200 : 600));
  byId("scope").addEventListener("change", () => { if (byId("words").value) soon(0); });
  byId("filters").addEventListener("input", (event) => soon(event.target.type === "number" ? 350 : 0));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["reset", "none-reset"]) byId(id).addEventListener("click", () => reset());
  function reset(marked) {
    const { question } = search();
    for (const name of FIELDS) byId(name).value = initial[name];
    if (question) byId("question").value = question;
    byId("marked").checked = Boolean(marked);
    show(0);
  }
  byId("filters-shown").addEventListener("click", () => {
    const isOpen = byId("filters").classList.toggle("open");
    byId("filters-shown").setAttribute("aria-expanded", isOpen);
  });
  byId("page-back").addEventListener("click", () => page(-1));
  byId("page-on").addEventListener("click", () => page(1));
  const goTo = (event) => {
    const wanted = Math.min(Math.max(1, Math.round(Number(event.target.value)) || 1), Number(event.target.max));
    scrollTo(0, 0);
    show((wanted - 1) * PAGE);
  };
  byId("page-slider").addEventListener("input", (event) => { byId("page-number").value = event.target.value; });
  byId("page-slider").addEventListener("change", goTo);
  byId("page-number").addEventListener("change", goTo);

  function options(id, entries) {
    byId(id).append(...entries.map(([value, text]) => {
      const option = made("option", "", text);
      option.value = value;
      return option;
    }));
  }

  const initial = {};
  async function begin() {
    about = await get("about", {});
    options("question", about.questions);
    byId("question-field").hidden = about.questions.length < 2;
    options("format", about.formats.map(([value, text, number]) => [value, `${text} (${count(number)})`]));
    options("outcome", about.errors.map(([value, text, number]) => [value, `${text} (${count(number)})`]));
    byId("scope").hidden = !about.has_texts;
    byId("days-name").textContent = about.taken === 0 ? "Scored" : about.taken === about.rows ? "Taken" : "Taken, else scored";
    for (const id of ["day_from", "day_to"]) { byId(id).min = about.first_day || ""; byId(id).max = about.last_day || ""; }
    for (const name of FIELDS) initial[name] = byId(name).value;
    document.querySelector(".brand").title = `${about.root}, scored with ${about.checkpoint}`;
    marksNow(about.marked);
    if (about.marks_file) { byId("marks-manifest").textContent = "Download"; byId("marks-count").title = `Saved in ${about.marks_file}`; }
    recall();
    await show(start);
  }
  begin().catch((error) => say(error.message || "The server does not answer. Start artimuse browse again.", true));
}
