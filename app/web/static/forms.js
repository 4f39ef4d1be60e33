// Forms and buttons that say in their attributes which call of the API they are:
//   data-call="POST /v1/keys"   the call; a form sends its fields as JSON ("policy.x" goes into an object)
//   data-file="/v1/samples"     instead: the form's file is the body, its other fields are parameters
//   data-body='{"a": 1}'        what a button sends
//   data-then="/ui/jobs/{id}"   where to go afterwards, with fields of the answer; else the page is loaded again
//   data-secret="key"           instead: show this field of the answer, which is never shown again
//   data-confirm="Sure?"        ask first
import { call, complain, send } from "./calls.js";

const TYPES = { jsonl: "application/jsonl", ndjson: "application/x-ndjson", csv: "text/csv", tsv: "text/tab-separated-values" };
const READERS = {
  number: Number,
  json(text) {
    try { return JSON.parse(text); } catch { throw new Error(`This is no JSON: ${text}`); }
  },
};

function fields(form) {
  const found = {};
  for (const field of form.elements) {
    const { name, value, type, checked } = field, as = field.dataset?.as;
    if (!name || type === "file" || (type === "checkbox" && !checked) || value === "") continue;
    const [key, inner] = name.split(".");
    if (as === "list") (found[key] ??= []).push(value);
    else if (inner) (found[key] ??= {})[inner] = READERS[as]?.(value) ?? value;
    else found[key] = READERS[as] ? READERS[as](value) : value;
  }
  return found;
}

function sendFile(form) {
  const file = form.elements.file.files[0], ending = file.name.split(".").pop().toLowerCase();
  const parameters = new URLSearchParams({ name: file.name, ...fields(form) });
  return call("POST", `${form.dataset.file}?${parameters}`, file, { "Content-Type": TYPES[ending] ?? file.type });
}

function follow(from, answer) {
  const { then, secret } = from.dataset;
  if (secret) return reveal(answer[secret]);
  if (then) return location.assign(then.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(answer[name])));
  return location.reload();
}

function reveal(text) {
  const place = document.querySelector(".secret");
  place.querySelector("code").textContent = text;
  place.hidden = false;
  place.scrollIntoView({ block: "center" });
  place.querySelector("[data-reload]").focus();
}

async function carryOut(from, button, made) {
  if (from.dataset.confirm && !confirm(from.dataset.confirm)) return;
  button.disabled = true;
  complain(from, null);
  try {
    follow(from, await made());
  } catch (error) {
    complain(from, error);
  } finally {
    button.disabled = false;
  }
}

// Until somebody listens, a button that needs it cannot be pressed.
const listening = () => document.querySelectorAll("[data-needs-script]").forEach((button) => { button.disabled = false; });

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.dataset.call && !form.dataset.file) return;
  event.preventDefault();
  const [method, path] = form.dataset.call?.split(" ") ?? [];
  carryOut(form, event.submitter, async () => (form.dataset.file ? sendFile(form) : send(method, path, fields(form))));
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.call) {
    const [method, path] = button.dataset.call.split(" ");
    const body = button.dataset.body && JSON.parse(button.dataset.body);
    carryOut(button, button, () => send(method, path, body));
  } else if (button && "copy" in button.dataset) {
    navigator.clipboard.writeText(button.closest(".secret").querySelector("code").textContent);
  } else if (button && "reload" in button.dataset) {
    location.reload();
  }
});

listening();
