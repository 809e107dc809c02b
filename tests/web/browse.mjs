// Drives a real browser on a dashboard: `node browse.mjs SCENARIO '{"url": ...}'`. Prints what it saw as one JSON object.
import { chromium } from 'playwright-core';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [scenario, given] = process.argv.slice(2);
const args = JSON.parse(given);
const PATIENCE = 60000;
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

// What must not happen, whatever is shown.
function listen(page, wrong) {
  page.on('console', (message) => {
    // A refused request is said by the browser itself; what must be refused is looked at by its code.
    if (['error', 'warning'].includes(message.type()) && !/status of 401/.test(message.text())) wrong.push(message.text());
  });
  page.on('pageerror', (error) => wrong.push(String(error)));
  page.on('dialog', (dialog) => { wrong.push('a dialog: ' + dialog.message()); dialog.dismiss(); });
  page.on('request', (request) => { if (!request.url().startsWith(args.url)) wrong.push('a request to ' + request.url()); });
}

const job = (page) => page.evaluate(() => {
  const article = document.querySelector('.job');
  return article && {
    standing: article.querySelector('.pill').textContent,
    percent: article.querySelector('.bar .figure').textContent,
    bar: article.querySelector('progress').value,
    line: article.querySelector('.line').textContent,
    done: document.querySelector('[data-tile=done] dd').textContent,
  };
});
const standing = (page, words) => page.waitForFunction((text) => document.querySelector('.job .pill')?.textContent === text, words, { timeout: PATIENCE });
const isWide = (page) => page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);

async function pictures(page, name) {
  if (!args.pictures) return;
  for (const [kind, colorScheme, width, height] of [['light', 'light', 1280, 900], ['dark', 'dark', 1280, 900], ['phone', 'light', 360, 740], ['phone-dark', 'dark', 360, 740]]) {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height });
    await page.screenshot({ path: join(args.pictures, `${name}-${kind}.png`), fullPage: true });
  }
  await page.emulateMedia({ colorScheme: 'light' });
  await page.setViewportSize({ width: 1280, height: 900 });
}

async function unlock(page) {
  await page.getByRole('button', { name: 'Unlock actions' }).click();
  await page.locator('#token').fill(args.token);
  await page.keyboard.press('Enter');
  await page.getByRole('button', { name: 'Lock', exact: true }).waitFor();
}

const SCENARIOS = {
  // Looks on while a job runs to its end.
  async watch(page) {
    await page.waitForFunction(() => document.querySelector('.job progress')?.value > 0, null, { timeout: PATIENCE });
    const seen = [];
    let pictured = false;
    for (;;) {
      const now = await job(page);
      if (now && JSON.stringify(now) !== JSON.stringify(seen.at(-1))) seen.push(now);
      if (!pictured && seen.length >= (args.pictured_after ?? 6)) {
        pictured = true;
        await pictures(page, args.name);
      }
      if (/^(complete|aborted|cancelled)/.test(now?.standing ?? '')) break;
      await page.waitForTimeout(100);
    }
    const plots = await page.evaluate(() => [...document.querySelectorAll('.curve')].map((curve) => curve.getAttribute('d').split('L').length));
    return { seen, pictured, plots, buttons: await page.getByRole('button').count(), live: await page.locator('#live').textContent(), trouble: await page.locator('#trouble').textContent() };
  },

  // What names of files do to the page: nothing.
  async hostile(page) {
    const worked = page.waitForFunction((words) => [...document.querySelectorAll('#active tbody .path')].map((cell) => cell.textContent).find((text) => text.includes(words)), args.working, { timeout: PATIENCE });
    await page.waitForFunction((n) => document.querySelectorAll('.errors tbody tr').length >= n, args.failures, { timeout: PATIENCE });
    const active = await (await worked).jsonValue();
    await pictures(page, 'hostile');
    return page.evaluate((active) => ({
      active: [active],
      paths: [...document.querySelectorAll('.errors tbody td:first-child')].map((cell) => cell.textContent),
      scripts: document.scripts.length,
      images: [...document.images].map((image) => image.getAttribute('src')),
      inside: document.querySelectorAll('.path *').length,
      touched: 'touched' in window,
      text: document.body.innerText,
    }), active);
  },

  // Steers a job and a node by its buttons.
  async steer(page) {
    const readOnly = await page.locator('main button').count();
    await page.getByRole('button', { name: 'Unlock actions' }).click();
    await page.locator('#token').fill('this is the wrong token');
    await page.keyboard.press('Enter');
    await page.locator('#token-wrong', { hasText: 'wrong' }).waitFor();
    await page.keyboard.press('Escape');
    const afterWrong = await page.locator('main button').count();
    await unlock(page);
    await standing(page, 'walking');
    await page.getByRole('button', { name: /^Pause copy/ }).click();
    await standing(page, 'paused');
    // What was in hand is finished; then nothing moves.
    await page.waitForFunction(() => document.querySelector('#active caption').textContent.startsWith('No actor'), null, { timeout: PATIENCE });
    const still = [];
    for (let look = 0; look < 3; look += 1) {
      // The next state that comes.
      const before = await page.locator('#entries-plot .curve').getAttribute('d');
      await page.waitForFunction((d) => document.querySelector('#entries-plot .curve').getAttribute('d') !== d, before, { timeout: PATIENCE });
      still.push(await job(page));
    }
    await pictures(page, args.name);
    await page.getByRole('button', { name: /^Resume copy/ }).click();
    await standing(page, 'walking');
    const paused = Number.parseFloat(still[2].line.replaceAll(',', ''));
    await page.waitForFunction((n) => Number.parseFloat(document.querySelector('.job .line').textContent.replaceAll(',', '')) > n, paused, { timeout: PATIENCE });
    const actors = () => page.locator('#nodes tbody td').nth(2).locator('.nowrap').textContent();
    const before = await actors();
    await page.getByRole('button', { name: /^One file actor more/ }).first().click();
    await page.waitForFunction((text) => document.querySelectorAll('#nodes tbody td')[2].querySelector('.nowrap').textContent.split(' ')[2] !== text.split(' ')[2], before, { timeout: PATIENCE });
    const after = await actors();
    // Cancelling asks first; no is no.
    await page.getByRole('button', { name: /^Cancel copy/ }).click();
    const question = await page.locator('#sure-text').textContent();
    await page.keyboard.press('Enter'); // the focus is where nothing happens
    const spared = (await job(page)).standing;
    await page.getByRole('button', { name: /^Cancel copy/ }).click();
    await page.getByRole('button', { name: 'Yes: cancel' }).click();
    await page.waitForFunction(() => /^(stopping|cancelled)/.test(document.querySelector('.job .pill').textContent), null, { timeout: PATIENCE });
    return { readOnly, afterWrong, still, before, after, question, spared };
  },

  // Tries again what failed, when told so.
  async retry(page) {
    await standing(page, 'complete with failed entries');
    await unlock(page);
    await page.getByRole('button', { name: /^Retry what failed in/ }).click();
    await page.getByRole('button', { name: 'Yes: retry what failed' }).click();
    await page.locator('#said', { hasText: 'tried again' }).waitFor({ timeout: PATIENCE });
    await standing(page, 'complete');
    return { job: await job(page) };
  },

  // Goes through the page by keyboard alone.
  async keyboard(page) {
    await unlock(page);
    await page.locator('.job button').first().waitFor();
    await page.locator('#active .name').first().waitFor();
    await page.locator('#nodes button').first().waitFor();
    await page.evaluate(() => document.activeElement.blur());
    const all = await page.locator('a:visible, button:visible, input:visible').count();
    const reached = new Map();
    for (let press = 0; press < 4 * all; press += 1) {
      await page.keyboard.press('Tab');
      const [name, outline] = await page.evaluate(() => {
        const node = document.activeElement;
        return [node === document.body ? '' : node.getAttribute('aria-label') || node.textContent, getComputedStyle(node).outlineStyle];
      });
      if (name) reached.set(name, outline);
    }
    const names = await page.locator('a:visible, button:visible').evaluateAll((nodes) => nodes.map((node) => node.getAttribute('aria-label') || node.textContent));
    const unnamed = await page.evaluate(() => [...document.querySelectorAll('table')].filter((table) => !table.caption || table.querySelectorAll('th[scope]').length === 0).length);
    await pictures(page, 'keyboard');
    await page.setViewportSize({ width: 360, height: 740 });
    const wide = await isWide(page);
    await page.setViewportSize({ width: 320, height: 640 });
    return { names, reached: [...reached.keys()], invisible: [...reached].filter(([, outline]) => outline === 'none').map(([name]) => name), unnamed, wide, narrower: await isWide(page) };
  },

  // The broker goes and comes back: so does the page, by itself.
  async away(page) {
    await page.locator('#live', { hasText: 'no answer' }).waitFor({ timeout: PATIENCE });
    const trouble = await page.locator('#trouble').textContent();
    console.error('away'); // whoever reads that brings it back
    await page.locator('#live', { hasText: 'live' }).waitFor({ timeout: PATIENCE });
    return { trouble, after: await page.locator('#trouble').isVisible() };
  },

  // Reading, too, needs the token here.
  async closed(page) {
    await page.locator('#token-box').waitFor();
    const before = await page.evaluate(() => document.querySelectorAll('.job').length);
    await page.locator('#token').fill(args.token);
    await page.keyboard.press('Enter');
    await page.locator('#live', { hasText: 'live' }).waitFor({ timeout: PATIENCE });
    return { before, kept: await page.evaluate(() => sessionStorage.length + ' ' + localStorage.length + ' ' + document.cookie) };
  },
};

const profile = mkdtempSync(join(tmpdir(), 'treehaul-browser-'));
const context = await chromium.launchPersistentContext(profile, { executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: FLAGS, viewport: { width: 1280, height: 900 } });
try {
  const page = context.pages()[0] ?? (await context.newPage());
  page.setDefaultTimeout(PATIENCE);
  const wrong = [];
  listen(page, wrong);
  const answer = await page.goto(args.url);
  const result = await SCENARIOS[scenario](page);
  const violations = await page.evaluate(() => performance.getEntriesByType('resource').length >= 2);
  console.log(JSON.stringify({ ...result, wrong, loaded: answer.status(), assets: violations }));
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
