"use strict";

const MAX_UPLOAD = 10_000_000;

const at = (id) => document.getElementById(id);

let indexes = [];
let query = {};        // file, or like and likeIndex
let searches = 0;      // an answer to an older search is dropped

class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw new Refused(0, "The server does not answer. Is it still running?");
  }
  if (response.ok) {
    return response.status === 204 ? null : response.json();
  }
  let text = `The server answers with status ${response.status}.`;
  try {
    text = (await response.json()).detail;
  } catch (error) {
    // an answer that is no JSON has nothing to add
  }
  throw new Refused(response.status, text);
}

function tell(text, isError = false) {
  at("message").textContent = text;
  at("message").classList.toggle("error", isError);
}

function tellError(error) {
  tell(error.message, true);
  if (error.status === 401) {
    at("login").hidden = false;
    at("token").focus();
  }
}

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  if (text !== undefined) {
    made.textContent = text;
  }
  return made;
}

// images of indexes

function thumbnailOf(id, index) {
  return `/thumbnail/${id}?index=${encodeURIComponent(index)}`;
}

function nameOf(result) {
  const file = result.path.split(/[/\\]/).pop();
  return result.title || (result.row === null ? file : `${file}, row ${result.row}`);
}

function cardOf(result, index) {
  const card = element("button", "card");
  const name = nameOf(result);
  const score = result.score.toFixed(3);
  card.type = "button";
  card.title = result.path;
  card.setAttribute("aria-label", `${name}, score ${score}. Search for similar images`);

  const image = element("img", "");
  image.loading = "lazy";
  image.alt = "";
  image.src = thumbnailOf(result.id, index);
  image.addEventListener("error", () => { image.alt = "no longer there"; });
  card.append(image, element("span", "score", score), element("span", "name", name));
  card.addEventListener("click", () => searchLike(result.id, index, name));
  return card;
}

function columnOf(facts) {
  const column = element("section", "");
  const heading = element("h2", "", `${facts.name} `);
  heading.append(element("small", "", facts.model.split(/[/\\]/).pop()));
  column.append(heading);
  column.setAttribute("aria-label", `Results of ${facts.name}`);
  return column;
}

function show(answer, column) {
  if (answer.results.length === 0) {
    column.append(element("p", "", "Nothing found."));
    return;
  }
  const grid = element("div", "grid");
  grid.append(...answer.results.map((result) => cardOf(result, answer.index)));
  column.append(grid);
}

// searches

function formFor(index) {
  const form = new FormData();
  const words = at("words").value.trim();
  if (words) {
    form.set("text", words);
  }
  if (query.file) {
    form.set("image", query.file, "image");
  }
  if (query.like) {
    form.set("like", query.like);
    form.set("like_index", query.likeIndex);
  }
  form.set("index", index);
  return form;
}

async function search() {
  if (!at("words").value.trim() && !query.file && !query.like) {
    tell("Type words, or drop, paste or choose an image.");
    at("words").focus();
    return;
  }
  const number = ++searches;
  keepInAddress(at("words").value.trim());
  tell("Searching…");
  try {
    if (indexes.length === 0) {
      await start();
    }
    const answers = await Promise.all(indexes.map((facts) =>
      ask("/search", { method: "POST", body: formFor(facts.name) })));
    if (number !== searches) {
      return;
    }
    const columns = indexes.map(columnOf);
    answers.forEach((answer, place) => show(answer, columns[place]));
    at("columns").replaceChildren(...columns);
    const seconds = Math.max(...answers.map((answer) => answer.seconds));
    const count = answers.reduce((sum, answer) => sum + answer.results.length, 0);
    const notes = new Set(answers.map((answer) => answer.note).filter(Boolean));
    tell([`${count} image${count === 1 ? "" : "s"} in ${(1000 * seconds).toFixed(0)} ms.`, ...notes].join(" "));
  } catch (error) {
    if (number === searches) {
      tellError(error);
    }
  }
}

// words in the address survive a reload and can be sent to others
function keepInAddress(words) {
  history.replaceState(null, "", words ? `/?q=${encodeURIComponent(words)}` : "/");
}

function setQuery(next, source, name) {
  if (at("preview").src.startsWith("blob:")) {
    URL.revokeObjectURL(at("preview").src);
  }
  query = next;
  at("query").hidden = !source;
  at("preview").removeAttribute("src");
  if (source) {
    at("preview").src = source;
    at("query-name").textContent = name;
  }
}

function searchLike(id, index, name) {
  at("words").value = "";
  setQuery({ like: id, likeIndex: index }, thumbnailOf(id, index), `similar to ${name}`);
  window.scrollTo(0, 0);
  search();
}

function searchFile(file) {
  if (!file.type.startsWith("image/")) {
    tell(`${file.name || "This"} is no image.`, true);
  } else if (file.size > MAX_UPLOAD) {
    tell(`${file.name || "The image"} is larger than ${MAX_UPLOAD / 1e6} MB. Scale it down.`, true);
  } else {
    setQuery({ file }, URL.createObjectURL(file), file.name || "pasted image");
    search();
  }
}

function searchFirst(files) {
  if (files.length > 0) {
    searchFile(files[0]);
  }
}

// keyboard

const STEPS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };

function middleOf(card) {
  const box = card.getBoundingClientRect();
  return { x: box.left + box.width / 2, y: box.top + box.height / 2 };
}

function nearest(from, cards, direction) {
  const start = middleOf(from);
  let best = null;
  let bestDistance = Infinity;
  for (const card of cards) {
    const { x, y } = middleOf(card);
    const isSideways = direction === "left" || direction === "right";
    const sign = direction === "left" || direction === "up" ? -1 : 1;
    const along = sign * (isSideways ? x - start.x : y - start.y);
    const across = Math.abs(isSideways ? y - start.y : x - start.x);
    const distance = along + 10 * across;
    if (along > 1 && distance < bestDistance) {
      best = card;
      bestDistance = distance;
    }
  }
  return best;
}

function move(event) {
  const direction = STEPS[event.key];
  const cards = [...document.querySelectorAll(".card")];
  const isCard = cards.includes(document.activeElement);
  if (!direction || cards.length === 0) {
    return;
  }
  if (!isCard) {
    if (direction === "down" && document.activeElement === at("words")) {
      event.preventDefault();
      cards[0].focus();
    }
    return;
  }
  event.preventDefault();
  const next = nearest(document.activeElement, cards, direction);
  if (next) {
    next.focus();
  } else if (direction === "up") {
    at("words").focus();
  }
}

document.addEventListener("keydown", (event) => {
  const isTyping = document.activeElement instanceof HTMLInputElement;
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    at("words").focus();
    at("words").select();
    return;
  }
  move(event);
});

// forms, files and the clipboard

at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  if (query.like) {
    setQuery({});  // typed words begin a new search
  }
  search();
});

at("choose").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => {
  searchFirst([...at("file").files]);
  at("file").value = "";
});
at("forget").addEventListener("click", () => {
  setQuery({});
  at("words").focus();
});

document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length > 0) {
    event.preventDefault();
    searchFirst(files);
  }
});

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) {
    document.body.classList.remove("dropping");
  }
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files.length === 0) {
    tell("Drop an image's file; one of another page must be saved first.", true);
  }
  searchFirst([...event.dataTransfer.files]);
});

at("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = new FormData();
  body.set("token", at("token").value);
  try {
    await ask("/login", { method: "POST", body });
    at("token").value = "";
    at("login").hidden = true;
    await begin();
  } catch (error) {
    tellError(error);
  }
});

async function start() {
  indexes = await ask("/indexes");
}

async function begin() {
  try {
    await start();
    const total = indexes.map((facts) => `${facts.name}: ${facts.num_images.toLocaleString("en")} images`);
    tell(total.join(" · "));
    at("words").focus();
    const words = new URLSearchParams(location.search).get("q");
    if (words) {
      at("words").value = words;
      search();
    }
  } catch (error) {
    tellError(error);
  }
}

begin();
