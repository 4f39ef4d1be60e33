// A checkpoint by tus (https://tus.io), file by file. What is under way is kept in the browser's storage: after a reload
// the bars stand where they were, and the same files, chosen again, go on from there.
import { complain, send, token } from "./calls.js";

const KEPT = "lethe.upload", ENDPOINT = "/v1/uploads", CHUNK = 32 * 2 ** 20;
const ARCHIVE = /\.(tar|tar\.gz|tgz|zip)$/i;
const form = document.getElementById("upload"), [folder, files, pending, words, bars, drop, button] =
  ["folder", "files", "pending", "pending-words", "bars", "drop", "send"].map((id) => document.getElementById(id));
const name = form.elements.name;

const kept = () => JSON.parse(localStorage.getItem(KEPT) ?? "null");
const keep = (state) => localStorage.setItem(KEPT, JSON.stringify(state));
const idOf = (address) => address.split("/").pop();

// Each chosen file by its path inside the checkpoint; hidden files and folders are left out.
function chosen() {
  const found = [...folder.files].map((file) => [file.webkitRelativePath.split("/").slice(1).join("/"), file]);
  return [...found, ...[...files.files].map((file) => [file.name, file])]
    .filter(([path]) => !path.split("/").some((part) => part.startsWith(".")));
}

function show(state) {
  pending.hidden = !state;
  if (!state) return;
  bars.replaceChildren(...state.files.map((file) => {
    const item = document.createElement("li"), label = document.createElement("label"), bar = document.createElement("progress");
    bar.max = Math.max(file.size, 1);
    bar.value = file.sent;
    label.append(file.path, bar);
    item.append(label);
    return item;
  }));
}

function advance(state, place, sent) {
  state.files[place].sent = sent;
  bars.children[place].querySelector("progress").value = sent;
  keep(state);
}

function sendFile(state, place, file) {
  const known = state.files[place];
  return new Promise((resolve, reject) => {
    const upload = new tus.Upload(file, {
      endpoint: ENDPOINT,
      uploadUrl: known.url,
      chunkSize: CHUNK,
      retryDelays: [0, 1000, 3000, 10000],
      headers: { "X-CSRF-Token": token },
      metadata: { filename: known.path },
      storeFingerprintForResuming: false,
      onUploadUrlAvailable: () => { known.url = upload.url; keep(state); },
      onProgress: (sent) => advance(state, place, sent),
      onSuccess: () => { advance(state, place, known.size); resolve(idOf(upload.url)); },
      onError: (error) => reject(new Error(`${known.path}: ${reason(error)}`)),
    });
    upload.start();
  });
}

function reason(error) {
  const body = error.originalResponse?.getBody();
  try { return JSON.parse(body).detail; } catch { return "The upload was cut. Choose the same files again to go on."; }
}

const isSame = (state, found) => state && state.files.length === found.length &&
  state.files.every((file) => found.some(([path, each]) => path === file.path && each.size === file.size && each.lastModified === file.modified));

async function upload() {
  const found = chosen();
  if (!found.length) throw new Error("Choose the checkpoint's folder, an archive, or its files.");
  const fresh = { name: name.value, files: found.map(([path, file]) => ({ path, size: file.size, modified: file.lastModified, sent: 0, url: null })) };
  const state = isSame(kept(), found) ? { ...kept(), name: name.value } : fresh;
  keep(state);
  show(state);
  words.textContent = "";
  const ids = {};
  for (const [place, { path }] of state.files.entries()) {
    ids[path] = await sendFile(state, place, found.find(([each]) => each === path)[1]);
  }
  const [only] = Object.keys(ids), isArchive = found.length === 1 && ARCHIVE.test(only);
  const model = await send("POST", "/v1/models", { name: state.name, ...(isArchive ? { archive: ids[only] } : { files: ids }) });
  localStorage.removeItem(KEPT);
  location.assign(`/ui/models/${model.id}`);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  complain(form, null);
  try { await upload(); } catch (error) { complain(form, error); } finally { button.disabled = false; }
});

drop.addEventListener("click", () => {
  for (const { url } of kept()?.files ?? []) {
    if (url) fetch(url, { method: "DELETE", headers: { "X-CSRF-Token": token, "Tus-Resumable": "1.0.0" } });
  }
  localStorage.removeItem(KEPT);
  show(null);
});

folder.addEventListener("change", () => { if (!name.value && folder.files.length) name.value = folder.files[0].webkitRelativePath.split("/")[0]; });

const before = kept();
if (before) {
  name.value = before.name;
  words.textContent = "This upload was cut. Choose the same files again and it goes on where it was; what has arrived is not sent again.";
  show(before);
}

button.disabled = false;  // from here on somebody listens
