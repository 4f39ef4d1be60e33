// A job as it runs: its state, phase and figures from the stream of events, drawn as they come.
const live = document.getElementById("live"), job = live.dataset.job;
const [state, phase, share, finish, latest, timeline, log, plot] =
  ["state", "phase", "share", "finish", "latest", "timeline", "log", "curves"].map((id) => document.getElementById(id));
const WIDTH = 640, HEIGHT = 220, LINES = 200;
const CURVES = [["asr", "ASR"], ["floor", "floor"], ["clean_accuracy", "clean accuracy"]];
const seen = CURVES.map(() => []);
let last = 0, asked = false, redraw = false;

function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function draw() {
  redraw = false;
  const across = (step) => (WIDTH * step) / Math.max(last, 1), down = (rate) => HEIGHT * (1 - rate);
  const marks = [];
  for (const percent of [0, 25, 50, 75, 100]) {
    const y = down(percent / 100);
    marks.push(svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }));
    marks.push(svg("text", { class: "name", x: -8, y: y + 4 }, `${percent} %`));
  }
  marks.push(svg("text", { class: "tick", x: 0, y: 242 }, "step 0"), svg("text", { class: "tick", x: WIDTH, y: 242 }, `step ${last}`));
  CURVES.forEach(([, words], place) => {
    const points = seen[place].map(([step, rate]) => `${across(step).toFixed(1)},${down(rate).toFixed(1)}`);
    if (!points.length) return;
    marks.push(svg("polyline", { class: `curve c${place}`, points: points.join(" ") }));
    marks.push(svg("text", { class: `value k${place}`, x: WIDTH + 10, y: place * 20 + 14 }, words));
  });
  plot.replaceChildren(plot.querySelector("title"), ...marks);
  const words = CURVES.map(([, name], place) => [name, seen[place].at(-1)]).filter(([, point]) => point);
  latest.textContent = `Step ${last}: ${words.map(([name, [, rate]]) => `${name} ${(100 * rate).toFixed(1)} %`).join(", ")}`;
}

function note(kind, data) {
  const { at, values, ...rest } = data;
  const words = Object.entries({ ...rest, ...values }).filter(([, value]) => value !== null)
    .map(([name, value]) => `${name}=${typeof value === "number" ? +value.toFixed(4) : value}`);
  const lines = `${log.textContent}${at.slice(0, 19).replace("T", " ")} ${kind} ${words.join(" ")}\n`.split("\n");
  log.textContent = lines.slice(-LINES).join("\n");
  log.scrollTop = log.scrollHeight;
}

function move(words, at) {
  const item = document.createElement("li"), strong = document.createElement("strong"), time = document.createElement("time");
  strong.textContent = words;
  time.textContent = at.slice(0, 19).replace("T", " ");
  time.dateTime = at;
  item.append(strong, " ", time);
  timeline.append(item);
}

// How far it is stands in the job itself: asked for once a second at most.
async function progress() {
  if (asked) return;
  asked = true;
  const answer = await fetch(`/v1/jobs/${job}`);
  if (answer.ok) {
    const { progress: done, estimated_finish: end } = await answer.json();
    share.value = done;
    finish.textContent = end ? `, done about ${end.slice(0, 19).replace("T", " ")} UTC` : "";
  }
  setTimeout(() => { asked = false; }, 1000);
}

const HEARD = {
  status({ status, at }) {
    const badge = document.createElement("span");
    badge.className = `badge ${status}`;
    badge.textContent = status;
    state.replaceChildren(badge);
    move(status, at);
  },
  phase({ phase: name, at }) {
    phase.textContent = name;
    move(name, at);
  },
  metric({ step, values }) {
    last = Math.max(last, step);
    CURVES.forEach(([key], place) => { if (values[key] != null) seen[place].push([step, values[key]]); });
    if (!redraw) { redraw = true; requestAnimationFrame(draw); }
  },
};

// The stream tells the whole story from its beginning: what the page was sent with is told again.
timeline.replaceChildren();
log.textContent = "";
const source = new EventSource(`/v1/jobs/${job}/events`);
for (const [kind, hear] of Object.entries(HEARD)) {
  source.addEventListener(kind, (event) => {
    const data = JSON.parse(event.data);
    hear(data);
    note(kind, data);
    progress();
  });
}
source.addEventListener("end", () => { source.close(); location.reload(); });
