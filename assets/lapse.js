// The browser side of lab/ui/compare/lapse.py: one question's answers at the moments of a run, and a slider over them.
// `element`, `props` and `watch` come from gradio. Its value is {"question", "run", "of", "part", "reference", "frames"}.

const box = element.querySelector('.lapse'), $ = selector => box.querySelector(selector);
const slider = $('#lapse-slider'), PACE = 1100;  // milliseconds that a moment stands while it plays
let told = null, at = 0, follows = true, playing = null;

function h(tag, look, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(look || {})) if (value !== false && value != null) made.setAttribute(key, value);
  made.append(...children.filter(child => child != null));
  return made;
}
function go(place, byHand = true) {
  if (!told || !told.frames.length) return;
  if (byHand) { follows = false; play(false); }
  at = Math.min(told.frames.length - 1, Math.max(0, place));
  draw();
}
function play(on) {
  clearInterval(playing);
  playing = null;
  $('.play').setAttribute('aria-pressed', String(on));
  $('.play').textContent = on ? 'Pause' : 'Play';
  if (!on || !told) return;
  follows = false;
  if (at >= told.frames.length - 1) go(0, false);
  playing = setInterval(() => {
    if (!element.isConnected) return clearInterval(playing);
    at >= told.frames.length - 1 ? play(false) : go(at + 1, false);
  }, PACE);
}

function draw() {
  const frame = told.frames[at], last = told.frames.length - 1;
  slider.max = String(last); slider.value = String(at);
  slider.setAttribute('aria-valuetext', frame.title);
  $('output').textContent = `${frame.title}, ${at + 1} of ${told.frames.length}`;
  for (const button of box.querySelectorAll('[data-move]')) button.setAttribute('aria-disabled', String(button.dataset.move < 0 ? at === 0 : at === last));
  $('.question').textContent = told.question;
  $('.part').textContent = [`${told.run}.`, told.reference ? `Reference answer: ${told.reference}.` : '', told.part].filter(Boolean).join(' ');
  const sums = told.frames.map(one => one.sum).filter(sum => sum != null), low = Math.min(0, ...sums), wide = Math.max(0, ...sums) - low || 1;
  $('.sums').replaceChildren(...told.frames.map((one, place) => h('i', {
    class: [place === at ? 'now' : '', one.problem ? 'bad' : one.goal?.[0] || ''].join(' '), style: `height:${one.sum == null ? 4 : 4 + 36 * (one.sum - low) / wide}px`})));
  $('.moment').replaceChildren(...(frame.problem ? [h('p', {class: 'bad'}, `${frame.title} was not asked. ${frame.problem}`)] : [
    h('p', {class: 'strip'}, h('b', {}, frame.title), h('span', {class: `badge ${frame.goal[0]}`}, frame.goal[1]),
      h('span', {class: 'chip'}, 'Total ', h('b', {}, frame.total)), ...frame.scores.map(([label, kind, score]) => h('span', {class: `chip ${kind}`}, `${label} `, h('b', {}, score))),
      h('span', {class: 'soft'}, frame.about)),
    h('p', {class: `adapter ${frame.adapter[0]}`}, frame.adapter[1]),
    frame.same ? h('p', {class: 'soft'}, 'Word for word as the moment before.') : at ? h('p', {class: 'soft'}, h('mark', {}, 'Marked'), ' is what was not there the moment before.') : null,
    h('pre', {tabindex: 0, role: 'group', 'aria-label': `Answer, ${frame.title}`}, ...(frame.pieces.some(([text]) => text) ? frame.pieces.map(([text, differs]) => differs ? h('mark', {}, text) : text) : ['(empty)']))]));
}

function look() {
  const now = JSON.parse(props.value || 'null');
  if (!now || !now.frames.length) { told = null; at = 0; follows = true; play(false); box.hidden = true; return; }
  told = now;
  box.hidden = false;
  if (follows) at = told.frames.length - 1;  // while they come, the newest is shown, until somebody moves the slider
  draw();
}

slider.addEventListener('input', () => go(Number(slider.value)));
$('.play').addEventListener('click', () => play(!playing));
for (const button of box.querySelectorAll('[data-move]')) button.addEventListener('click', () => { if (button.getAttribute('aria-disabled') !== 'true') go(at + Number(button.dataset.move)); });
watch('value', look);
look();
