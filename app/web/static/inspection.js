// Waits until the model's inspection is over, then shows what came of it.
const model = document.getElementById("state").dataset.model;

async function look() {
  try {
    const answer = await fetch(`/v1/models/${model}`);
    if (answer.ok && (await answer.json()).done) return location.reload();
  } catch { /* the network is away: ask again */ }
  return setTimeout(look, 1000);
}

setTimeout(look, 500);
