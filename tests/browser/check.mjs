// Opens pages in headless Chromium and prints what it found as JSON.
//
//   node check.mjs page.html ...                      the checks
//   node check.mjs --screenshots FOLDER page.html ... and pictures: wide, narrow, dark, print
//
// Chromium is that of $CHROMIUM, or of the package @sparticuz/chromium.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf-8");
const words = process.argv.slice(2);
const folder = words[0] === "--screenshots" ? words.splice(0, 2)[1] : null;
const VIEWS = {
  wide: { width: 1300, scheme: "light", media: "screen", audited: true },
  narrow: { width: 390, scheme: "light", media: "screen" },
  dark: { width: 390, scheme: "dark", media: "screen", audited: true }, // all that depends on colour or width is audited
  print: { width: 800, scheme: "light", media: "print" },
};

const SLICE = 2600;

const browser = await puppeteer.launch({
  args: chromium.args,
  executablePath: process.env.CHROMIUM || (await chromium.executablePath()),
  headless: "shell",
});

async function show(tab, { width, scheme, media }) {
  await tab.setViewport({ width, height: 900 });
  await tab.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  if (media === "print") await tab.emulateMediaType("print");
}

// Pictures of at most SLICE pixels each: Chromium cannot draw a long page as one.
async function photograph(tab, name, width) {
  const height = await tab.evaluate(() => document.documentElement.scrollHeight);
  for (let y = 0; y < height; y += SLICE) {
    const clip = { x: 0, y, width, height: Math.min(SLICE, height - y) };
    await tab.screenshot({ path: `${name}-${y / SLICE}.png`, clip, captureBeyondViewport: true });
  }
}

// The tables of a page as rows of texts, without those that are hidden.
const readTables = () =>
  [...document.querySelectorAll("table.data")].map((table) =>
    [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => [...row.cells].map((cell) => cell.textContent)),
  );

async function violations(tab) {
  const session = await tab.createCDPSession(); // the page's own policy forbids scripts that are not part of it
  const { result } = await session.send("Runtime.evaluate", {
    expression: `${axe}; axe.run(document, { resultTypes: ["violations"] })
      .then(({ violations, passes }) => JSON.stringify({ violations: violations.map((v) => [v.id, v.nodes[0].html]), passes: passes.length }))`,
    awaitPromise: true,
    returnByValue: true,
  });
  return JSON.parse(result.value);
}

// Clicks the heading of each column of the first table with several rows, three times; then filters by a cell.
async function use(tab) {
  return tab.evaluate(() => {
    const table = [...document.querySelectorAll("table.data")].find((each) => each.tBodies[0].rows.length > 1);
    if (!table) return { sorted: [] };
    const column = (i) => [...table.tBodies[0].rows].map((row) => row.cells[i].dataset.sort ?? row.cells[i].textContent);
    const heads = [...table.tHead.rows[0].cells];
    const sorted = heads.map((head, i) => {
      const button = head.querySelector("button");
      button.click();
      const ascending = [head.ariaSort, column(i)];
      button.click();
      const descending = [head.ariaSort, column(i)];
      button.click();
      return { title: head.textContent, ascending, descending };
    });
    const bar = table.parentElement.previousElementSibling;
    if (!bar?.matches(".filter")) return { sorted };
    const search = bar.querySelector("input");
    const visible = () => [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.textContent);
    const word = table.tBodies[0].rows[0].cells[1].textContent;
    const type = (text) => {
      search.value = text;
      search.dispatchEvent(new Event("input", { bubbles: true }));
    };
    type(word);
    const filtered = { word, rows: visible(), said: bar.querySelector("output").textContent };
    type("");
    return { sorted, filtered, all: visible().length };
  });
}

const found = {};
for (const path of words) {
  const url = pathToFileURL(resolve(path)).href;
  const page = { problems: [], width: {}, axe: {} };
  for (const [name, view] of Object.entries(VIEWS)) {
    const tab = await browser.newPage();
    tab.on("pageerror", (error) => page.problems.push(error.message));
    tab.on("console", (message) => page.problems.push(message.text()));
    tab.on("request", (request) => request.url() === url || page.problems.push(`requests ${request.url()}`));
    await show(tab, view);
    await tab.goto(url);
    page.width[name] = [await tab.evaluate(() => document.documentElement.scrollWidth), view.width];
    if (view.audited) {
      await tab.evaluate(() => document.querySelectorAll("details").forEach((each) => (each.open = true)));
      page.axe[name] = await violations(tab);
      await tab.evaluate(() => document.querySelectorAll("details").forEach((each) => (each.open = false)));
    }
    if (folder) await photograph(tab, join(folder, `${basename(path, ".html")}-${name}`), view.width);
    if (name === "wide") {
      page.tables = await tab.evaluate(readTables);
      page.used = await use(tab);
    }
    await tab.close();
  }
  const tab = await browser.newPage();
  await tab.setJavaScriptEnabled(false);
  await tab.goto(url);
  page.without_scripts = { tables: await tab.evaluate(readTables), buttons: (await tab.$$("button, .filter")).length };
  await tab.close();
  found[basename(path)] = page;
}
await browser.close();
console.log(JSON.stringify(found));
