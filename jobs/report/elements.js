"use strict";
// Parts of the pages of a report and of `browse`. All text comes in by textContent: nothing in here is ever read as HTML.
const LONG = 1200; // characters of a text that are shown at first: most answers are half as long
const byId = (id) => document.getElementById(id);

function made(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function longText(into, text, tag = "p") {
  const block = made(tag, "", text.length > LONG ? `${text.slice(0, LONG)}…` : text);
  block.dir = "auto";
  into.append(block);
  if (text.length <= LONG) return;
  const all = made("button", "all", "Show all");
  all.type = "button";
  all.addEventListener("click", () => { block.textContent = text; all.remove(); });
  into.append(all);
}

function pairs(list, entries, fillIn) {
  list.replaceChildren(...entries.map((entry) => {
    const row = made("div"), value = made("dd");
    fillIn(value, entry);
    row.append(made("dt", "", entry[0]), value);
    return row;
  }));
}

// Light or dark: as the system says, until somebody chooses.
{
  const root = document.documentElement, theme = byId("theme"), system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const named = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  const remembered = () => { try { return localStorage.getItem("artimuse-theme"); } catch { return null; } };
  if (["light", "dark"].includes(remembered())) root.dataset.theme = remembered();
  theme.hidden = false;
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("artimuse-theme", root.dataset.theme); } catch { /* a file may have no memory */ }
    named();
  });
  system.addEventListener("change", named);
  named();
}

