// What the dashboard shows. Everything that comes in is put into text nodes, and nowhere else.
'use strict';
(() => {
  const byId = (id) => document.getElementById(id);
  const KEY = 'treehaul-token';
  const HISTORY_MS = 15 * 60 * 1000;
  const SILENT_MS = 15000;
  let token = sessionStorage.getItem(KEY);
  let now = null; // the newest state
  let heard = 0; // when it came
  let samples = [];
  let stream = null;

  // --- small tools -------------------------------------------------------------------------------------------------
  function make(name, props = {}, ...inside) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(props)) {
      if (key === 'class') node.className = value;
      else if (key === 'click') node.addEventListener('click', value);
      else node.setAttribute(key, value);
    }
    node.append(...inside);
    return node;
  }
  // Only what differs is touched, so that what somebody selects, or has the focus in, stays.
  function say(node, text) {
    text = String(text);
    if (node.textContent !== text) node.textContent = text;
    return node;
  }
  const dress = (node, names) => { if (node.className !== names) node.className = names; };
  const show = (node, is) => { if (node.hidden === is) node.hidden = !is; };

  // Children of a node, one for each item, found again by their keys. Those that go, go first: what stays is not moved
  // then, and keeps the focus.
  function list(parent, items, keyOf, build, fill) {
    const had = new Map([...parent.children].map((child) => [child.dataset.key, child]));
    const times = new Map();
    const keys = items.map((item) => {
      const key = keyOf(item);
      times.set(key, (times.get(key) || 0) + 1);
      return key + '#' + times.get(key);
    });
    const wanted = new Set(keys);
    for (const [key, child] of had) if (!wanted.has(key)) child.remove();
    let at = parent.firstElementChild;
    items.forEach((item, index) => {
      let child = had.get(keys[index]);
      if (!child) { child = build(item); child.dataset.key = keys[index]; }
      if (child === at) at = at.nextElementSibling;
      else parent.insertBefore(child, at);
      fill(child, item);
    });
  }

  const whole = new Intl.NumberFormat('en');
  const count = (n) => (n == null ? '–' : whole.format(Math.round(n)));
  function short(n) {
    if (n == null) return '–';
    if (n < 10 && n % 1) return n.toFixed(1);
    if (n < 100000) return count(n);
    const [by, unit] = n < 1e6 ? [1e3, 'k'] : n < 1e9 ? [1e6, 'M'] : [1e9, 'G'];
    return (n / by).toPrecision(3) + ' ' + unit;
  }
  function bytes(n) {
    if (n == null) return '–';
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
    let at = 0;
    while (n >= 1024 && at < units.length - 1) { n /= 1024; at += 1; }
    return (at === 0 ? Math.round(n) : n < 10 ? n.toFixed(2) : n < 100 ? n.toFixed(1) : Math.round(n)) + ' ' + units[at];
  }
  function lasting(seconds) {
    if (seconds == null) return '–';
    if (seconds < 60) return (seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)) + ' s';
    const minutes = Math.round(seconds / 60);
    if (minutes < 60) return minutes + ' min';
    const hours = Math.floor(minutes / 60);
    return hours < 48 ? hours + ' h ' + (minutes % 60) + ' min' : Math.floor(hours / 24) + ' d ' + (hours % 24) + ' h';
  }
  function brief(seconds) {
    if (seconds == null) return '–';
    if (seconds < 1e-6) return '< 1 µs';
    if (seconds < 0.001) return (seconds * 1e6).toPrecision(3) + ' µs';
    if (seconds < 1) return (seconds * 1e3).toPrecision(3) + ' ms';
    return seconds.toPrecision(3) + ' s';
  }
  const isUnlocked = () => Boolean(now && now.acts && token && now.over !== true);
  const total = (job, name) => (job.totals ? job.totals[name] || 0 : 0);
  const moved = (job) => total(job, 'bytes_copied') + total(job, 'bytes_read');

  // --- jobs --------------------------------------------------------------------------------------------------------
  const FACTS = [
    ['copied', 'copied'], ['updated', 'updated'], ['unchanged', 'unchanged'], ['deleted', 'deleted'], ['same', 'same'],
    ['different', 'different', 'bad'], ['extra', 'only in the target'], ['filtered', 'left out'], ['vanished', 'vanished'],
    ['changed_while_copying', 'kept changing', 'bad'], ['failed', 'failed', 'bad'], ['directories', 'directories'],
    ['files', 'files'], ['symlinks', 'symlinks'], ['hard_links', 'hard links'], ['specials', 'special files'],
    ['lost_owner', 'owners lost', 'bad'], ['lost_mode', 'modes lost', 'bad'], ['lost_times', 'times lost', 'bad'],
    ['lost_xattrs', 'xattrs lost', 'bad'], ['lost_acls', 'ACLs lost', 'bad'], ['lost_hard_links', 'hard links lost', 'bad'],
    ['lost_projects', 'projects lost', 'bad'], ['lost_layouts', 'layouts lost', 'bad'], ['lost_pools', 'pools lost', 'bad'],
    ['misplaced', 'on another MDT', 'bad'], ['released', 'only in an archive', 'bad'],
  ];
  function tone(job) {
    const standing = job.standing;
    if (standing === 'complete') return 'good';
    if (/^(aborted|complete with)/.test(standing)) return 'bad';
    return /^(paused|stopping|cancelled)/.test(standing) ? 'warn' : 'plain';
  }
  function buildJob() {
    const parts = {
      pass: make('span'), id: make('code'), standing: make('span', { class: 'pill' }),
      source: make('span', { class: 'path' }), target: make('span', { class: 'path' }),
      bar: make('div', { class: 'bar' }), progress: make('progress', { max: '1', value: '0' }), percent: make('span', { class: 'figure' }),
      line: make('p', { class: 'line' }), facts: make('dl', { class: 'facts' }), queues: make('dl', { class: 'facts queues' }),
      notes: make('ul', { class: 'notes' }), buttons: make('div', { class: 'buttons' }),
      caption: make('caption'), rows: make('tbody'),
    };
    parts.bar.append(parts.progress, parts.percent);
    parts.errors = make('table', { class: 'errors' }, parts.caption,
      make('thead', {}, make('tr', {}, ...['Path', 'While', 'Error'].map((text) => make('th', { scope: 'col' }, text)))), parts.rows);
    const article = make('article', { class: 'card job' },
      make('div', { class: 'head' }, make('h3', {}, parts.pass, ' ', parts.id), parts.standing),
      make('p', { class: 'roots' }, parts.source, make('span', { class: 'arrow', 'aria-label': 'to' }, ' → '), parts.target),
      parts.bar, parts.line, parts.facts, parts.queues, parts.notes, parts.errors, parts.buttons);
    article.parts = parts;
    return article;
  }
  function fact(child, [, , label, value, is]) {
    dress(child, is || '');
    say(child.firstChild, label);
    say(child.lastChild, value);
  }
  const facts = (parent, items) => list(parent, items, (item) => item[1], () => make('div', {}, make('dt'), make('dd')), fact);

  function share(job) {
    const found = total(job, 'found');
    if (job.over && /^complete/.test(job.standing)) return 1;
    return found > 0 ? Math.min(1, job.done / found) : 0;
  }
  function fillJob(article, job) {
    const p = article.parts;
    const part = share(job);
    const isGuess = !job.walk_over && !job.over;
    dress(article, 'card job' + (total(job, 'failed') ? ' failed' : '') + (isGuess ? ' found' : ''));
    say(p.pass, job.pass);
    say(p.id, job.job);
    say(p.standing, job.standing);
    dress(p.standing, 'pill ' + tone(job));
    say(p.source, job.source);
    say(p.target, job.target);
    p.progress.value = part;
    // It is rounded down: 100 is all of it.
    say(p.percent, Math.floor(part * 100) + ' %');
    p.progress.setAttribute('aria-label', 'Progress of ' + job.pass + ' ' + job.job);
    const words = [count(job.done) + ' of ' + count(total(job, 'found')) + (isGuess ? ' entries found so far' : ' entries'), bytes(moved(job))];
    if (job.entries_per_second != null && !job.paused) words.push(short(job.entries_per_second) + ' entries/s', bytes(job.bytes_per_second) + '/s');
    if (job.elapsed_seconds) words.push((job.over ? 'took ' : 'running for ') + lasting(job.elapsed_seconds));
    if (!job.over && !job.paused && job.seconds_left != null) words.push((job.walk_over ? 'about ' : 'at least ') + lasting(job.seconds_left) + ' left');
    if (job.leader && !job.over) words.push('led by ' + job.leader);
    say(p.line, words.join(' · '));
    facts(p.facts, FACTS.filter(([name]) => total(job, name) > 0).map(([name, label, is]) => [0, name, label, count(total(job, name)), is]));
    const waits = ['dirs', 'files', 'dirtimes', 'dead'].map((name) => [name, job.queues[name]]).filter(([name, q]) => q && (name !== 'dead' || q.ready > 0));
    facts(p.queues, job.over ? [] : [
      ...waits.map(([name, q]) => [0, name, name === 'dead' ? 'dead letters' : name + ' waiting', count(q.ready), name === 'dead' ? 'bad' : '']),
      [0, ' hand', 'in hand', count(job.unacknowledged)],
    ]);
    show(p.queues, !job.over);
    const notes = [...(job.notes || []), ...job.quarantined.map((q) => q.node + ' takes no task any more: ' + q.why)];
    for (const node of now.nodes) {
      for (const stand of node.jobs) if (stand.job === job.job && stand.refused) notes.push(node.node + ' takes no part: ' + stand.refused);
    }
    list(p.notes, notes, (note) => note, () => make('li'), say);
    const errors = (job.failures || []).slice().reverse();
    show(p.errors, errors.length > 0);
    const all = Math.max(total(job, 'failed'), errors.length);
    say(p.caption, count(all) + ' failed' + (all > errors.length ? '; these are the last ' + errors.length : ''));
    list(p.rows, errors, (error) => error.path + '\n' + error.operation + '\n' + error.error, () => make('tr', {}, make('td', { class: 'path' }), make('td', { class: 'while' }), make('td')), (row, error) => {
      say(row.children[0], error.path || '.');
      say(row.children[1], error.operation);
      say(row.children[2], error.error);
    });
    list(p.buttons, isUnlocked() ? jobActions(job) : [], (action) => action.action, (action) => button(action), () => {});
    show(p.buttons, p.buttons.childElementCount > 0);
  }
  function jobActions(job) {
    const named = job.pass + ' ' + job.job;
    if (job.over) {
      const can = now.retries && total(job, 'failed') > 0 && /^complete/.test(job.standing) && job.pass !== 'verify';
      return can ? [{ action: 'retry', job: job.job, text: 'Retry what failed', name: 'Retry what failed in ' + named, sure: 'Everything that failed in ' + named + ' (' + job.source + ' to ' + job.target + ') is tried again.' }] : [];
    }
    const turn = job.paused ? { action: 'resume', text: 'Resume' } : { action: 'pause', text: 'Pause' };
    return [
      { ...turn, job: job.job, name: turn.text + ' ' + named },
      { action: 'cancel', job: job.job, text: 'Cancel', name: 'Cancel ' + named, is: 'danger', sure: named + ' (' + job.source + ' to ' + job.target + ') ends early. What is done stays; running it again goes on from there.' },
    ];
  }

  // --- acting ------------------------------------------------------------------------------------------------------
  function button(action) {
    return make('button', {
      type: 'button', class: [action.is, action.small && 'small'].filter(Boolean).join(' '), 'aria-label': action.name,
      'data-action': action.action, click: (event) => press(event.currentTarget, action),
    }, action.text);
  }
  async function press(pressed, action) {
    if (action.sure && !(await isSure(action))) return;
    const { action: what, job, node, kind, by } = action;
    pressed.disabled = true;
    try {
      const { code, said } = await ask({ action: what, job, node, kind, by });
      toast(said.done || said.refused);
      if (code === 401) forget();
    } catch {
      toast('The dashboard does not answer.');
    }
    pressed.disabled = false;
  }
  async function ask(body, key = token) {
    const headers = { 'Content-Type': 'application/json', Authorization: 'Bearer ' + key };
    const answer = await fetch('/api/action', { method: 'POST', headers, body: JSON.stringify(body), cache: 'no-store' });
    return { code: answer.status, said: await answer.json().catch(() => ({ refused: 'It answers ' + answer.status + '.' })) };
  }
  let toasting = 0;
  function toast(text) {
    say(byId('said'), text);
    show(byId('said'), true);
    clearTimeout(toasting);
    toasting = setTimeout(() => show(byId('said'), false), 6000);
  }
  function isSure(action) {
    const box = byId('sure-box');
    say(byId('sure-head'), action.text + '?');
    say(byId('sure-text'), action.sure);
    dress(say(byId('sure-yes'), 'Yes: ' + action.text.toLowerCase()), 'main ' + (action.is || ''));
    box.returnValue = '';
    box.showModal();
    byId('sure-no').focus();
    return new Promise((resolve) => box.addEventListener('close', () => resolve(box.returnValue === 'yes'), { once: true }));
  }
  byId('sure-yes').addEventListener('click', () => byId('sure-box').close('yes'));
  byId('sure-no').addEventListener('click', () => byId('sure-box').close('no'));

  // --- the token ---------------------------------------------------------------------------------------------------
  function forget() {
    token = null;
    sessionStorage.removeItem(KEY);
    if (now) draw();
    askForToken();
  }
  function askForToken(why = '') {
    const box = byId('token-box');
    say(byId('token-wrong'), why);
    show(byId('unlock'), true);
    if (!box.open) { byId('token').value = ''; box.showModal(); }
  }
  byId('unlock').addEventListener('click', () => {
    if (!token) { askForToken(); return; }
    token = null;
    sessionStorage.removeItem(KEY);
    draw();
    connect();
  });
  byId('token-cancel').addEventListener('click', () => byId('token-box').close());
  byId('token-form').addEventListener('submit', async (event) => {
    event.preventDefault();
    const given = byId('token').value.trim();
    const { code, said } = await ask({ action: 'check' }, given).catch(() => ({ code: 0, said: { refused: 'The dashboard does not answer.' } }));
    if (code !== 200) { say(byId('token-wrong'), said.refused); return; }
    token = given;
    sessionStorage.setItem(KEY, token);
    byId('token').value = '';
    byId('token-box').close();
    if (now) draw();
    connect();
  });

  // --- nodes, actors, calls ----------------------------------------------------------------------------------------
  const cells = (...classes) => () => make('tr', {}, ...classes.map((names, at) => make(at === 0 && names === 'th' ? 'th' : 'td', names === 'th' ? { scope: 'row' } : { class: names })));
  // Roles are said: on a phone its rows are no table any more for the eye.
  function buildNode() {
    const cell = (names, props, ...inside) => make('td', { role: 'cell', class: names, ...props }, ...inside);
    const parts = { name: make('span'), why: make('div'), state: make('span', { class: 'pill' }), load: cell('num', { 'data-label': 'Load' }), memory: cell('num', { 'data-label': 'Memory' }), acts: cell('acts', {}) };
    for (const kind of ['dirs', 'files']) parts[kind] = { text: make('span', { class: 'nowrap' }), step: make('span', { class: 'step' }) };
    const row = make('tr', { role: 'row' }, make('th', { role: 'rowheader', scope: 'row' }, parts.name, parts.why), cell('state', {}, parts.state),
      cell('', { 'data-label': 'Dir actors' }, parts.dirs.text, parts.dirs.step), cell('', { 'data-label': 'File actors' }, parts.files.text, parts.files.step),
      parts.load, parts.memory, parts.acts);
    row.parts = parts;
    return row;
  }
  function nodeActions(node) {
    const turn = node.paused ? { action: 'resume', text: 'Resume' } : { action: 'pause', text: 'Pause' };
    // Of the one node of a run that is alone, pausing is pausing the job.
    return now.mode === 'alone' ? [] : [{ ...turn, node: node.node, name: turn.text + ' ' + node.node }];
  }
  function steps(node, kind) {
    if (!node.actors[kind]) return [];
    const noun = kind === 'dirs' ? 'dir actor' : 'file actor';
    const one = (action, text, words) => ({ action, node: node.node, kind, by: 1, text, small: true, name: 'One ' + noun + ' ' + words + ' for ' + node.node });
    return [one('shrink', '−', 'fewer'), one('grow', '+', 'more')];
  }
  function fillNode(row, node) {
    const p = row.parts;
    say(p.name, node.node);
    say(p.state, node.state);
    dress(p.state, 'pill ' + ({ works: 'good', paused: 'warn', stopping: 'warn', lost: 'bad' }[node.state] || 'plain'));
    for (const kind of ['dirs', 'files']) {
      say(p[kind].text, node.stranger || node.lost ? '–' : node.busy[kind] + ' of ' + node.actors[kind] + ' busy');
      list(p[kind].step, isUnlocked() && !node.stranger && !node.lost ? steps(node, kind) : [], (action) => action.action, button, () => {});
    }
    say(p.load, node.load == null ? '–' : node.load.toFixed(2));
    say(p.memory, bytes(node.rss_bytes));
    const why = node.stranger ? [node.stranger] : node.lost ? [node.lost] : node.jobs.flatMap((job) => [
      job.leads ? 'leads ' + job.job : null, job.refused ? 'takes no part in ' + job.job + ': ' + job.refused : null,
    ]).filter(Boolean);
    if (node.blocked) why.push('the broker takes nothing from it');
    list(p.why, why, (text) => text, () => make('span'), (span, text) => dress(say(span, text), 'why' + (/^leads/.test(text) ? '' : ' bad')));
    list(p.acts, isUnlocked() && !node.stranger && !node.lost ? nodeActions(node) : [], (action) => action.action, button, () => {});
  }
  function drawNodes() {
    const strangers = (now.strangers || []).map((s) => ({ node: s.node, state: 'not understood', stranger: 'treehaul ' + s.version + ' ' + s.why, jobs: [] }));
    const lost = now.lost.map((one) => ({ ...one, lost: 'last seen ' + lasting(one.seen_seconds_ago) + ' ago, at ' + new Date(one.seen_unix_ms).toLocaleTimeString('en-GB') + '; it did not say that it stops', jobs: [] }));
    const there = now.nodes.length + strangers.length;
    const rows = [...now.nodes, ...strangers, ...lost];
    dress(byId('nodes'), rows.length ? '' : 'empty');
    list(byId('nodes').tBodies[0], rows, (node) => node.node + (node.lost ? ' lost' : node.pid || ''), buildNode, fillNode);
    const silent = now.silent ? '; ' + now.silent + ' more did not answer in time' : '';
    say(byId('nodes').caption, there || lost.length ? there + (there === 1 ? ' node' : ' nodes') + (lost.length ? ', ' + lost.length + ' lost' : '') + silent : 'No worker is there' + silent + '.');
  }
  function drawActive() {
    const table = byId('active');
    dress(table, now.active.length ? '' : 'empty');
    const left = now.active_total - now.active.length;
    say(table.caption, now.active.length ? count(now.active_total) + ' at work, the longest first' + (left > 0 ? '; ' + count(left) + ' more are not shown' : '') : 'No actor has a task in hand.');
    list(table.tBodies[0], now.active, (one) => one.node + '\n' + one.actor, cells('num', 'name', 'wide', 'path'), (row, one) => {
      say(row.children[0], lasting(one.seconds));
      say(row.children[1], now.nodes.length > 1 ? one.node + ' ' + one.actor : one.actor);
      say(row.children[2], one.task);
      say(row.children[3], one.path || '.');
    });
  }
  const atMost = (seconds) => (seconds == null || seconds < 1e-6 ? '' : '< ') + brief(seconds);
  function callRow() {
    const row = cells('th', 'num', 'num', 'num wide', 'num')();
    row.firstChild.append(make('span'), make('code', { class: 'why' }));
    return row;
  }
  function drawCalls() {
    const table = byId('calls');
    dress(table, now.calls.length ? '' : 'empty');
    const several = new Set(now.calls.map((call) => call.job)).size > 1;
    say(table.caption, now.calls.length ? 'On filesystems, since the workers began' : 'No call has been timed.');
    list(table.tBodies[0], now.calls, (call) => call.job + call.call, callRow, (row, call) => {
      say(row.children[0].firstChild, call.call);
      say(row.children[0].lastChild, several ? call.job : '');
      say(row.children[1], atMost(call.p50_seconds));
      say(row.children[2], atMost(call.p99_seconds));
      say(row.children[3], brief(call.mean_seconds));
      say(row.children[4], short(call.count));
    });
  }

  // --- plots -------------------------------------------------------------------------------------------------------
  const SVG = 'http://www.w3.org/2000/svg';
  const WIDTH = 600;
  const HEIGHT = 100;
  function buildPlot(place) {
    const svg = document.createElementNS(SVG, 'svg');
    const shapes = [['path', 'grid'], ['path', 'area'], ['path', 'curve']].map(([name, names]) => {
      const shape = document.createElementNS(SVG, name);
      shape.setAttribute('class', names);
      svg.append(shape);
      return shape;
    });
    svg.setAttribute('viewBox', '0 0 ' + WIDTH + ' ' + HEIGHT);
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.setAttribute('role', 'img');
    shapes[0].setAttribute('d', 'M0 0H' + WIDTH + 'M0 ' + HEIGHT / 2 + 'H' + WIDTH + 'M0 ' + HEIGHT + 'H' + WIDTH);
    const labels = ['top-label', 'mid-label', 'from', 'to'].map((names) => make('span', { class: names, 'aria-hidden': 'true' }));
    place.append(svg, ...labels);
    return { svg, area: shapes[1], curve: shapes[2], labels };
  }
  // The next of 1, 2, 5, 10 ... of a unit that is a power of `base`.
  function ceiling(n, base) {
    let unit = 1;
    while (n / unit >= base) unit *= base;
    for (const step of [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]) if (step * unit >= n) return step * unit;
    return base * unit;
  }
  function drawPlot(plot, figure, column, words, base, what) {
    const last = samples.length ? samples[samples.length - 1] : null;
    const to = last ? last[0] : 0;
    const from = Math.max(to - HISTORY_MS, Math.min(samples.length ? samples[0][0] : to, to - 60000));
    const shown = samples.filter((sample) => sample[0] >= from);
    const highest = shown.reduce((most, sample) => Math.max(most, sample[column]), 0);
    const top = ceiling(Math.max(highest, 2), base);
    const x = (ms) => ((ms - from) / Math.max(1, to - from) * WIDTH).toFixed(1);
    const y = (value) => (HEIGHT - value / top * HEIGHT).toFixed(1);
    const line = shown.map((sample) => x(sample[0]) + ' ' + y(sample[column])).join('L');
    plot.curve.setAttribute('d', line ? 'M' + line : '');
    plot.area.setAttribute('d', line ? 'M' + x(shown[0][0]) + ' ' + HEIGHT + 'L' + line + 'L' + x(to) + ' ' + HEIGHT + 'Z' : '');
    const [topLabel, middle, fromLabel, toLabel] = plot.labels;
    say(topLabel, words(top));
    say(middle, words(top / 2));
    say(fromLabel, last ? lasting((to - from) / 1000) + ' ago' : '');
    say(toLabel, last ? 'now' : '');
    const value = last ? words(last[column]) + '/s' : '–';
    say(figure, value);
    plot.svg.setAttribute('aria-label', what + ': ' + value + ' now, ' + words(highest) + '/s at the most');
  }
  const plots = { entries: buildPlot(byId('entries-plot')), bytes: buildPlot(byId('bytes-plot')) };

  // --- the whole ---------------------------------------------------------------------------------------------------
  function drawSummary() {
    const sum = (of) => now.jobs.reduce((all, job) => all + (of(job) || 0), 0);
    const busy = (what) => now.nodes.reduce((all, node) => all + node[what].dirs + node[what].files, 0);
    const failed = sum((job) => total(job, 'failed'));
    const last = now.sample;
    const tiles = [
      ['jobs', 'Jobs under way', count(now.jobs.filter((job) => !job.over).length)],
      ['entries', 'Entries a second', last ? short(last[1]) : '–'],
      ['bytes', 'Data a second', last ? bytes(last[2]) : '–'],
      ['done', 'Entries done', short(sum((job) => job.done))],
      ['moved', 'Data moved', bytes(sum(moved))],
      ['failed', 'Failed', count(failed), failed ? 'bad' : ''],
      ['busy', 'Actors busy', count(busy('busy')) + ' of ' + count(busy('actors'))],
    ];
    list(byId('summary'), tiles, (tile) => tile[0], (tile) => make('div', { 'data-tile': tile[0] }, make('dt'), make('dd')), (tile, [, label, value, is]) => {
      say(tile.firstChild, label);
      say(tile.lastChild, value);
      dress(tile, is || '');
    });
  }
  function draw() {
    const { over, trouble } = now;
    say(byId('title'), (now.mode === 'alone' ? 'alone, at ' : 'the fleet of ') + now.title);
    const first = now.jobs.find((job) => !job.over) || now.jobs[0];
    const title = (first ? Math.floor(share(first) * 100) + ' % ' + first.pass + ' – ' : '') + 'treehaul';
    if (document.title !== title) document.title = title;
    show(byId('unlock'), now.acts && !over);
    say(byId('unlock'), token ? 'Lock' : 'Unlock actions');
    drawSummary();
    list(byId('jobs'), now.jobs, (job) => job.job, buildJob, fillJob);
    show(byId('no-jobs'), now.jobs.length === 0);
    drawNodes();
    drawActive();
    drawCalls();
    const known = now.looked_unix_ms ? ' What is shown was so at ' + new Date(now.looked_unix_ms).toLocaleTimeString('en-GB') + '.' : '';
    say(byId('trouble'), over ? 'The run is over: this is how it ended.' : trouble ? trouble + '.' + known : '');
    show(byId('trouble'), Boolean(over || trouble));
    say(byId('foot'), 'treehaul ' + now.version + ' · ' + (now.acts ? (token ? 'unlocked: buttons act' : 'read-only until it is unlocked') : 'read-only: started without a token'));
    pill();
  }
  function pill() {
    const node = byId('live');
    const is = (text, names) => dress(say(node, text), 'pill ' + names);
    if (now && now.over) is('over', 'plain');
    else if (!stream) is('reconnecting', 'warn');
    else if (!now) is('connecting', 'plain');
    else if (now.trouble) is('no answer', 'bad');
    else is('live', 'good');
  }
  function take(kind, text) {
    const value = JSON.parse(text);
    heard = Date.now();
    if (kind === 'history') {
      samples = value;
    } else if (kind === 'state') {
      now = value;
      if (now.sample && (!samples.length || samples[samples.length - 1][0] < now.sample[0])) samples.push(now.sample);
      while (samples.length && samples[0][0] < now.unix_ms - HISTORY_MS) samples.shift();
      draw();
    }
    drawPlot(plots.entries, byId('entries-now'), 1, short, 1000, 'Entries a second');
    drawPlot(plots.bytes, byId('bytes-now'), 2, bytes, 1024, 'Data a second');
  }

  // --- the stream of events: fetched, since an EventSource cannot send a token --------------------------------------
  let turn = 0;
  async function connect() {
    turn += 1;
    const mine = turn;
    if (stream) stream.abort();
    for (let wait = 500; mine === turn && !(now && now.over); wait = Math.min(wait * 2, 5000)) {
      stream = new AbortController();
      heard = Date.now();
      pill();
      try {
        if (await read(stream, mine)) wait = 500;
      } catch { /* whoever serves it is gone, or slow: once more */ }
      if (mine !== turn) return;
      stream = null;
      pill();
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
  // True: something came.
  async function read(control, mine) {
    const headers = token ? { Authorization: 'Bearer ' + token } : {};
    const answer = await fetch('/events', { headers, signal: control.signal, cache: 'no-store' });
    if (answer.status === 401) {
      turn += 1; // until there is another token
      stream = null;
      token = null;
      sessionStorage.removeItem(KEY);
      pill();
      askForToken();
      return false;
    }
    if (!answer.ok) throw new Error(answer.status);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done || mine !== turn) return true;
      const blocks = (rest + value).split('\n\n');
      rest = blocks.pop();
      for (const block of blocks) {
        const fields = Object.fromEntries(block.split('\n').map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trimStart()]));
        if (fields.event && fields.data) take(fields.event, fields.data);
      }
    }
  }
  setInterval(() => {
    if (stream && Date.now() - heard > SILENT_MS) stream.abort();
  }, 1000);
  connect();
})();
