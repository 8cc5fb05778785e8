// node open.mjs FILE: open FILE in a headless browser in Tokyo, and print as JSON what it asks for, complains of and shows.
import { existsSync } from "node:fs";
import { pathToFileURL } from "node:url";
import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";

const installed = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
if (!installed && (process.platform !== "linux" || process.arch !== "x64")) {
  console.error("no browser comes in a package for this machine, and it has no Chromium");
  process.exit(69);
}
const browser = await puppeteer.launch({
  args: puppeteer.defaultArgs({ args: chromium.args, headless: "shell" }),
  executablePath: installed ?? (await chromium.executablePath()),
  headless: "shell",
});
try {
  const page = await browser.newPage();
  const requests = [];
  const complaints = [];
  page.on("request", (request) => requests.push(request.url()));
  page.on("console", (message) => ["error", "warn"].includes(message.type()) && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  await page.emulateTimezone("Asia/Tokyo");
  await page.goto(pathToFileURL(process.argv[2]), { waitUntil: "networkidle0" });
  const shown = await page.evaluate(() => {
    const charts = {};
    for (const chart of document.querySelectorAll("[data-chart-id]")) {
      const labels = [...chart.querySelectorAll("[data-dct-role=bar]")].map((bar) => bar.getAttribute("aria-label"));
      const titles = [...chart.querySelectorAll("circle > title")].map((title) => title.textContent);
      charts[chart.dataset.chartId] = { labels, titles, texts: [...chart.querySelectorAll("text")].map((text) => text.textContent) };
    }
    return { charts, text: document.documentElement.outerHTML };
  });
  console.log(JSON.stringify({ requests, complaints, ...shown }));
} finally {
  await browser.close();
}
