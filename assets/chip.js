// The browser side of lab/ui/header.py's chip: what trains, or the newest run. `element`, `server` and `trigger` come
// from gradio.

const chip = element.querySelector('.chip'), text = chip.querySelector('.text');
const ACTIVE = ['starting', 'running', 'pausing', 'paused', 'stopping', 'offline'];
const APP = 'grpo-lab-app', ANEW = 'grpo-lab-anew', TOLD = 12000;  // milliseconds
let busy = false, before = null, app = null;

async function look() {
  if (busy || document.visibilityState !== 'visible') return;
  busy = true;
  try {
    const run = await server.newest_run();
    if (run === undefined) throw new Error('no answer');
    if (app !== null && run.app !== app) {  // another process: what this page knows of the lab is gone with the old one
      location.reload();
      return;
    }
    if (app === null) welcome(String(run.app));
    app = run.app;
    chip.dataset.status = run.status; chip.dataset.step = run.step; chip.dataset.run = run.run;
    if (text.textContent !== run.text) text.textContent = run.text;
    chip.toggleAttribute('data-beat', ACTIVE.includes(run.status) && run.status !== 'paused' && !chip.hasAttribute('data-beat'));
    const now = [run.run, run.status, run.saved, run.queue, run.history].join(' ');
    if (before !== null && now !== before) trigger('change');
    before = now;
  } catch (error) { chip.dataset.status = 'offline'; text.textContent = 'The lab does not answer'; }
  finally { busy = false; }
}
chip.addEventListener('click', () => trigger('select'));
// Whoever loaded this page anew (we, gradio, a person), and though gradio may build the chip more than once.
function welcome(now) {
  const before = sessionStorage.getItem(APP);
  sessionStorage.setItem(APP, now);
  if (before && before !== now) sessionStorage.setItem(ANEW, Date.now());
  const left = TOLD - (Date.now() - Number(sessionStorage.getItem(ANEW)));
  if (left <= 0) return;
  const note = element.querySelector('.anew');
  note.textContent = 'The lab was restarted. This page was loaded anew.';
  setTimeout(() => { note.textContent = ''; }, left);
}
let turn = 0;  // where nothing trains, every second turn is enough
const timer = setInterval(() => {
  if (!element.isConnected) clearInterval(timer);
  else if (ACTIVE.includes(chip.dataset.status) || turn++ % 2) look();
}, 1500);
document.addEventListener('visibilitychange', look);
look();
