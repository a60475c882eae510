"""How the page looks: on desktops and phones, light and dark."""

STYLE = """
:root {
  color-scheme: light dark;
  --text: #1b1f24; --quiet: #57606a; --back: #ffffff; --band: #f4f6f8; --line: #d0d7de;
  --link: #0550ae;
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e6e9ec; --quiet: #a5adb6; --back: #14171a; --band: #1e2328; --line: #3a4149;
    --link: #79b8ff;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1rem 1rem 4rem; max-width: 76rem;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  color: var(--text); background: var(--back); overflow-wrap: break-word;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0; }
h2 {
  font-size: 1.25rem; line-height: 1.3; margin: 2.5rem 0 0.75rem; padding-top: 0.75rem;
  border-top: 1px solid var(--line);
}
p, ul { max-width: 48rem; }
ul { padding-left: 1.25rem; }
a { color: var(--link); }
code { font: 0.9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
nav { background: var(--band); border-radius: 6px; padding: 0.75rem 1rem; margin: 1rem 0; }
nav ul { margin: 0; columns: 2 16rem; list-style: none; padding: 0; max-width: none; }
nav ul ul { columns: auto; }
nav li { break-inside: avoid; padding: 0.15rem 0; }
.scroll {
  overflow-x: auto; max-width: 100%; margin: 1rem 0; border: 1px solid var(--line);
  border-radius: 6px;
}
.scroll:focus-visible { outline: 2px solid var(--link); }
table {
  border-collapse: separate; border-spacing: 0; min-width: 100%; font-size: 0.875rem;
  line-height: 1.35; font-variant-numeric: tabular-nums;
}
th, td { padding: 0.4rem 0.65rem; text-align: left; vertical-align: top; }
th { vertical-align: bottom; font-weight: 600; background: var(--band); }
td { white-space: nowrap; border-top: 1px solid var(--line); }
/* Numbers are aligned by a style of their cell; words, which have none, may wrap. */
td:not([style]) { white-space: normal; min-width: 6rem; max-width: 30rem; }
/* What a row is about stays in sight while its numbers scroll. */
th:first-child, td:first-child {
  position: sticky; left: 0; background: var(--back); overflow-wrap: anywhere;
  white-space: normal; min-width: 10.5rem; max-width: 16rem;
}
th:first-child { background: var(--band); }
figure { margin: 1.5rem 0; max-width: 42rem; }
figure img {
  display: block; width: 100%; max-width: 100%; height: auto; background: #ffffff;
  border: 1px solid var(--line); border-radius: 6px;
}
figcaption { color: var(--quiet); font-size: 0.9rem; margin-top: 0.5rem; }
@media (max-width: 40rem) {
  th:first-child, td:first-child { min-width: 9.5rem; max-width: 9.5rem; }
  td code { font-size: 0.85em; }
  th, td { padding: 0.35rem 0.5rem; }
}
"""
