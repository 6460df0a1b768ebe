// All texts of the page in English and Russian, and the choice of the language.

import { keep, recall } from "./session.js";

export const TEXTS = {
  en: {
    name: "English",
    title: "Generations",
    heading: "History",
    single: "Generation",
    skip: "Skip to the generations",
    enter: "Sign in",
    hint: "Paste your access token. It stays in this tab and is forgotten when you close it.",
    token: "Access token",
    open: "Show my generations",
    needed: "Enter a token.",
    wrong: "This token is not accepted. It may be mistyped or have expired.",
    leave: "Sign out",
    isWorking: "In progress",
    isReady: "Ready",
    isFailed: "Failed",
    isOther: "Closed",
    filter: "Show",
    all: "All",
    working: "In progress",
    ready: "Ready",
    failed: "Failed",
    stuck: "Stuck",
    back: "← All generations",
    older: "Show older",
    live: "Live",
    polling: "Checking every few seconds",
    away: "No connection",
    attention: "Needs attention",
    awayNotice: "The server cannot be reached. What you see may be out of date; it is asked again by itself.",
    nothing: "Nothing here yet. A new generation appears by itself.",
    nothingLike: "There is none like this.",
    missing: "There is no such generation, or it is not yours.",
    queued: "Waiting for its turn",
    generating: "Being made",
    elapsed: (elapsed, expected) => `${elapsed} of about ${expected}`,
    longer: (elapsed, expected) => `${elapsed}, usually about ${expected}`,
    alone: (elapsed) => elapsed,
    progress: "Progress",
    sorry: "This generation failed.",
    fetching: "Opening the result",
    unstored: "It is finished, but no file is known yet.",
    withheld: "The provider does not hand this file out.",
    unasked: "The provider cannot be asked just now.",
    unplayable: "This browser cannot play this file.",
    unloaded: "The picture could not be loaded.",
    cancelled: "This generation was closed before it was finished.",
    again: "Try again",
    download: "Download",
    openFile: "Open the file",
    preview: "Preview",
    result: "At the provider",
    results: "Results",
    previous: "Previous result",
    next: "Next result",
    place: (n, count) => `${n} of ${count}`,
    image: "Image",
    video: "Video",
    audio: "Audio",
    text: "Text",
    file: "File",
    owner: (user) => `User ${user}`,
    why: "Why?",
    whyAway: "Nothing can be told just now.",
    nowReady: (title) => `Ready: ${title}`,
    nowFailed: (title) => `Failed: ${title}`,
    story: { row: "Row", KIE: "KIE", results: "Results", why: "Why", do: "What to do", holder: "Held by", clock: "Clock", next: "Next" },
  },
  ru: {
    name: "Русский",
    title: "Генерации",
    heading: "История",
    single: "Генерация",
    skip: "Перейти к генерациям",
    enter: "Вход",
    hint: "Вставьте токен доступа. Он остаётся в этой вкладке и забывается, когда вы её закроете.",
    token: "Токен доступа",
    open: "Показать мои генерации",
    needed: "Введите токен.",
    wrong: "Токен не принят. Возможно, в нём опечатка или он истёк.",
    leave: "Выйти",
    isWorking: "В работе",
    isReady: "Готово",
    isFailed: "Ошибка",
    isOther: "Закрыта",
    filter: "Показать",
    all: "Все",
    working: "В работе",
    ready: "Готовые",
    failed: "С ошибкой",
    stuck: "Застрявшие",
    back: "← Все генерации",
    older: "Показать более ранние",
    live: "На связи",
    polling: "Проверка каждые несколько секунд",
    away: "Нет связи",
    attention: "Требует внимания",
    awayNotice: "Сервер недоступен. Показанное могло устареть; запрос повторяется автоматически.",
    nothing: "Здесь пока пусто. Новая генерация появится сама.",
    nothingLike: "Таких нет.",
    missing: "Такой генерации нет, или она не ваша.",
    queued: "Ждёт своей очереди",
    generating: "Создаётся",
    elapsed: (elapsed, expected) => `${elapsed} из примерно ${expected}`,
    longer: (elapsed, expected) => `${elapsed}, обычно около ${expected}`,
    alone: (elapsed) => elapsed,
    progress: "Ход работы",
    sorry: "Не получилось.",
    fetching: "Результат открывается",
    unstored: "Готово, но файл пока неизвестен.",
    withheld: "Провайдер не отдаёт этот файл.",
    unasked: "Провайдера сейчас нельзя спросить.",
    unplayable: "Этот браузер не может воспроизвести файл.",
    unloaded: "Изображение не загрузилось.",
    cancelled: "Генерация закрыта до завершения.",
    again: "Повторить",
    download: "Скачать",
    openFile: "Открыть файл",
    preview: "Предпросмотр",
    result: "У провайдера",
    results: "Результаты",
    previous: "Предыдущий результат",
    next: "Следующий результат",
    place: (n, count) => `${n} из ${count}`,
    image: "Изображение",
    video: "Видео",
    audio: "Аудио",
    text: "Текст",
    file: "Файл",
    owner: (user) => `Пользователь ${user}`,
    why: "Почему?",
    whyAway: "Сейчас ничего нельзя узнать.",
    nowReady: (title) => `Готово: ${title}`,
    nowFailed: (title) => `Ошибка: ${title}`,
    story: { row: "Строка", KIE: "KIE", results: "Результаты", why: "Почему", do: "Что делать", holder: "У кого", clock: "Часы", next: "Дальше" },
  },
};

let language = recall("language") ?? (/^(ru|be|uk|kk)\b/i.test(navigator.language) ? "ru" : "en");
if (!(language in TEXTS)) language = "en";

/** Return the text of this name in the current language; some texts take values. */
export function text(name, ...values) {
  const found = TEXTS[language][name];
  return typeof found === "function" ? found(...values) : found;
}

/** Return the code of the current language. */
export function spoken() {
  return language;
}

/** Write the text of every element below `root` that names one in `data-text`. */
export function say(root = document) {
  for (const element of root.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
}

/** Set the document's language, and offer the other one on this button. */
export function offer(button) {
  const other = language === "en" ? "ru" : "en";
  document.documentElement.lang = language;
  button.lang = other;
  button.textContent = TEXTS[other].name;
}

/** Switch to the other language for this tab. */
export function turn() {
  language = language === "en" ? "ru" : "en";
  keep("language", language);
}
