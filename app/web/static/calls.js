// One call of the API as the person who is signed in: the cookie goes by itself, the page's own token goes with it.
export const token = document.querySelector('meta[name="csrf-token"]').content;

export async function call(method, path, body, headers = {}) {
  const answer = await fetch(path, { method, body, headers: { "X-CSRF-Token": token, ...headers } });
  if (answer.status === 401) location.assign(`/ui/sign-in?next=${encodeURIComponent(location.pathname)}`);
  if (!answer.ok) throw new Error(await trouble(answer));
  return answer.status === 204 ? null : answer.json();
}

export const send = (method, path, value) =>
  call(method, path, value === undefined ? undefined : JSON.stringify(value), { "Content-Type": "application/json" });

async function trouble(answer) {
  try {
    const { detail, faults = [], lines = [] } = await answer.json();
    const more = [...faults.slice(1).map((each) => `${each.where}: ${each.message}`),
      ...lines.slice(0, 20).map((each) => `line ${each.line}: ${each.message}`)];
    return [detail, ...more].join("\n");
  } catch {
    return `The service answered ${answer.status}. Try again.`;
  }
}

// Says what went wrong beside what was asked for, and to those who listen.
export function complain(near, error) {
  const scope = near.closest("form, section, main");
  const place = scope.querySelector(".problem[role=alert]") ?? document.querySelector("main .problem[role=alert]");
  if (!place) return;
  place.textContent = error ? error.message : "";
  place.hidden = !error;
}
