// The browser side of lab/ui/doctor.py: shows what the doctor sees of the run that the live view shows.
// `element`, `server` and `trigger` come from gradio.

const box = element.querySelector('.doctor');
const PAUSE = 1500;  // milliseconds between two questions
const WORDS = {healthy: 'Healthy', warning: 'Warning', 'too early': 'Too early to tell'};
const LEVELS = {error: 'Error', warning: 'Warning', info: 'To know'};
let run = '', key = '', asked = 0, waiting = false, watched = null;

function made(tag, look, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(look)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function card(rule) {
  const button = made('button', {type: 'button', 'aria-describedby': `doctor-cure-${rule}`}, 'Prepare this');
  button.addEventListener('click', () => trigger('cure', {run, rule}));
  const back = made('button', {type: 'button', class: 'back'});
  back.addEventListener('click', () => trigger('fork', {run, rule}));
  return made('li', {'data-rule': rule}, made('details', {},
    made('summary', {}, made('span', {class: 'level'}), made('b', {class: 'what'}), made('span', {class: 'since'})),
    made('p', {class: 'figure'}), made('p', {class: 'next'}),
    made('div', {class: 'cure'}, button, made('span', {class: 'change', id: `doctor-cure-${rule}`})), back));
}

function fill(node, found) {  // only what differs: a selection and the focus stay
  node.className = found.level;
  const back = found.back == null ? '' : ` The checkpoint of step ${found.back} is from before.`;
  for (const [selector, text] of [['.level', LEVELS[found.level] || found.level], ['.what', found.what],
    ['.since', `since step ${found.since}`], ['.figure', found.figure], ['.next', found.next + back],
    ['.change', found.cure]]) {
    const place = node.querySelector(selector);
    if (place.textContent !== text) place.textContent = text;
  }
  node.querySelector('.cure').hidden = !found.cure;
  const fork = node.querySelector('button.back');
  fork.hidden = found.back == null;
  if (!fork.hidden) fork.textContent = `Fork from step ${found.back}` + (found.cure ? ' with this change' : '');
  return node;
}

function show(reply) {
  run = reply.run; key = reply.key;
  box.hidden = !reply.run || !reply.verdict;
  if (box.hidden) return;
  const verdict = box.querySelector('.verdict'), word = WORDS[reply.verdict] || reply.verdict;
  box.dataset.verdict = reply.verdict;
  if (verdict.textContent !== word) verdict.textContent = word;  // a status is read out when it changes
  box.querySelector('.reason').textContent = reply.why;
  const list = box.querySelector('.findings'), there = [...list.children];
  const wanted = reply.findings.map(found => fill(there.find(node => node.dataset.rule === found.rule) || card(found.rule), found));
  if (wanted.length && !there.length) wanted[0].querySelector('details').open = true;  // the rest is a press away
  if (wanted.length !== there.length || wanted.some((node, i) => node !== there[i])) list.replaceChildren(...wanted);
  list.hidden = !wanted.length;
}

async function ask() {
  if (!watched || waiting || document.visibilityState !== 'visible' || !element.isConnected) return;
  waiting = true;
  await new Promise(done => setTimeout(done, Math.max(0, asked + PAUSE - Date.now())));
  asked = Date.now();
  const wanted = watched.dataset.run || '';
  try {
    const reply = await server.health([wanted, wanted === run ? key : '']);
    if (reply && !reply.problem && (reply.key !== key || reply.run !== run)) show(reply);
  } catch (error) { /* the live view says that the server is away */ }
  waiting = false;
  if ((watched.dataset.run || '') !== wanted) ask();
}

window.labFollow(element, ['data-run', 'data-step', 'data-status'], live => { watched = live; ask(); });
document.addEventListener('visibilitychange', () => { if (watched) ask(); });
