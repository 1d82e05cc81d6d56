// All text comes in by textContent, and images by data: uris of our own: nothing in here is ever read as HTML.
{
  const ROWS = 3; // of a gallery, before it is asked for all
  const NAME = 80;
  let data;

  const score = (picture) => (picture.scores.length ? picture.scores[0][1].toFixed(1) : "–");
  const shortName = (picture) => (picture.id.length > NAME ? picture.id.slice(0, NAME) + "…" : picture.id);
  const said = (picture, caption) => `${shortName(picture)}, score ${score(picture)}${caption ? ", " + caption : ""}`;

  function pictureOf(picture, alternative) {
    if (!picture.image) return made("span", "gone", picture.gone ? `Gone now: ${picture.gone}` : "Not shown");
    const image = made("img");
    image.alt = alternative;
    image.width = picture.width;
    image.height = picture.height;
    image.decoding = "async";
    image.src = picture.image;
    return image;
  }

  function tileOf(gallery, place) {
    const [index, caption] = data.galleries[gallery][place];
    const picture = data.pictures[index];
    const item = made("li"), tile = made("button", "tile"), frame = made("span", "frame"), line = made("span", "said");
    tile.type = "button";
    tile.tabIndex = place ? -1 : 0;
    tile.dataset.place = place;
    tile.setAttribute("aria-label", said(picture, caption));
    frame.append(pictureOf(picture, ""));
    line.append(made("b", "", score(picture)), made("span", "", caption));
    tile.append(frame, line);
    item.append(tile);
    return item;
  }

  // A gallery is filled when it comes near, its first rows only.
  function fill(list) {
    const gallery = Number(list.dataset.gallery), items = data.galleries[gallery];
    const columns = Math.max(1, getComputedStyle(list).gridTemplateColumns.split(" ").length);
    const rows = list.classList.contains("strip") ? 1 : ROWS;
    const first = items.length <= columns * (rows + 1) ? items.length : columns * rows;
    for (let place = 0; place < first; place++) list.append(tileOf(gallery, place));
    if (first < items.length) {
      const all = made("button", "all", `Show all ${items.length}`);
      all.type = "button";
      all.addEventListener("click", () => {
        for (let place = first; place < items.length; place++) list.append(tileOf(gallery, place));
        all.remove();
        focusTile(list, first);
      });
      list.after(all);
    }
    list.addEventListener("click", (event) => {
      const tile = event.target.closest(".tile");
      if (tile) open(gallery, Number(tile.dataset.place), tile);
    });
    list.addEventListener("keydown", (event) => walk(event, list));
  }

  function focusTile(list, place) {
    const tiles = list.querySelectorAll(".tile");
    if (place < 0 || place >= tiles.length) return;
    tiles.forEach((tile) => { tile.tabIndex = -1; });
    tiles[place].tabIndex = 0;
    tiles[place].focus();
  }

  function walk(event, list) {
    const tile = event.target.closest(".tile");
    const columns = Math.max(1, getComputedStyle(list).gridTemplateColumns.split(" ").length);
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const last = list.querySelectorAll(".tile").length - 1;
    if (!tile || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps) focusTile(list, Number(tile.dataset.place) + steps[event.key]);
    else if (event.key === "Home") focusTile(list, 0);
    else if (event.key === "End") focusTile(list, last);
    else return;
    event.preventDefault();
  }

  // The viewer.
  const viewer = byId("viewer");
  let shown = null;

  function show(gallery, place) {
    const items = data.galleries[gallery];
    shown = { ...shown, gallery, place };
    const [index, caption] = items[place];
    const picture = data.pictures[index];
    byId("viewer-place").textContent = `${place + 1} of ${items.length}${caption ? ` · ${caption}` : ""}`;
    byId("previous").disabled = place === 0;
    byId("next").disabled = place === items.length - 1;
    byId("viewer-picture").replaceChildren(pictureOf(picture, said(picture, caption)));
    const name = byId("viewer-name");
    name.dir = "auto";
    name.replaceChildren();
    if (picture.id.length > 200) longTextIn(name, picture.id, 200); else name.textContent = picture.id;
    pairs(byId("viewer-scores"), picture.scores, (value, [, points, spread]) => {
      value.append(points.toFixed(2), made("small", "", ` ± ${spread.toFixed(2)}`));
    });
    pairs(byId("viewer-facts"), picture.facts, (value, [, fact]) => longTextIn(value, fact, 200));
    const texts = byId("viewer-texts");
    texts.replaceChildren();
    for (const [title, text] of picture.texts) {
      texts.append(made("h3", "", title));
      longText(texts, text);
    }
    document.querySelector(".told").scrollTop = 0;
    document.querySelector(".viewer-body").scrollTop = 0;
  }

  function longTextIn(into, text, length) {
    const inner = made("bdi", "", text.length > length ? text.slice(0, length) + "… " : text);
    into.append(inner);
    if (text.length <= length) return;
    const all = made("button", "all", "Show all");
    all.type = "button";
    all.addEventListener("click", () => { inner.textContent = text; all.remove(); });
    into.append(all);
  }

  function open(gallery, place, tile) {
    shown = { tile };
    show(gallery, place);
    viewer.showModal();
    byId("viewer-name").focus();
  }

  function turn(by) {
    const place = shown.place + by;
    if (place >= 0 && place < data.galleries[shown.gallery].length) show(shown.gallery, place);
  }

  if (viewer) {
    byId("previous").addEventListener("click", () => turn(-1));
    byId("next").addEventListener("click", () => turn(1));
    byId("close").addEventListener("click", () => viewer.close());
    viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
    viewer.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") turn(-1);
      else if (event.key === "ArrowRight") turn(1);
    });
    viewer.addEventListener("close", () => {
      const list = document.querySelector(`[data-gallery="${shown.gallery}"]`);
      const tile = list.querySelector(`[data-place="${shown.place}"]`);
      if (tile) focusTile(list, shown.place); else shown.tile.focus();
    });
    // After the first paint: what is at the top needs no script.
    requestAnimationFrame(() => setTimeout(() => {
      data = JSON.parse(byId("data").textContent);
      const near = new IntersectionObserver((entries) => {
        for (const entry of entries) {
          if (!entry.isIntersecting) continue;
          near.unobserve(entry.target);
          fill(entry.target);
        }
      }, { rootMargin: "900px 0px" });
      document.querySelectorAll("[data-gallery]").forEach((list) => near.observe(list));
    }));
  }
}
