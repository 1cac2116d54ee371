/** The sounds of the instruments of one transcription: samples, recorded from a sound font by the worker. */

import { unzip } from "./zip.js";

/**
 * @typedef {{ program: number, is_drum: boolean, pitch: number, velocity: number, file: string,
 *             loop: [number, number] | null }} Row one line of index.json; the loop is in s
 * @typedef {{ pitch: number, velocity: number, loop: [number, number] | null, buffer: AudioBuffer }} Sample
 */

export class Sounds {
  /** @type {Map<string, Sample[]>} */
  #samples = new Map();

  /**
   * @param {ArrayBuffer} archive the export "sounds"
   * @param {BaseAudioContext} context decodes it
   */
  static async read(archive, context) {
    const members = await unzip(archive);
    /** @type {{ samples: Row[] }} */
    const index = JSON.parse(new TextDecoder().decode(members.get("index.json")));
    const sounds = new Sounds();
    await Promise.all(
      index.samples.map(async (row) => {
        const buffer = await context.decodeAudioData(/** @type {ArrayBuffer} */ (members.get(row.file)));
        const key = keyOf(row.program, row.is_drum);
        const { pitch, velocity, loop } = row;
        sounds.#samples.set(key, [...(sounds.#samples.get(key) ?? []), { pitch, velocity, loop, buffer }]);
      }),
    );
    return sounds;
  }

  /** Return the sample nearest to a pitch; null if the instrument has none. */
  find(/** @type {number} */ program, /** @type {boolean} */ isDrum, /** @type {number} */ pitch) {
    const samples = this.#samples.get(keyOf(program, isDrum)) ?? [];
    /** @type {Sample | null} */
    let best = null;
    for (const each of samples) {
      if (!best || Math.abs(each.pitch - pitch) < Math.abs(best.pitch - pitch)) best = each;
    }
    return isDrum && best?.pitch !== pitch ? null : best;
  }
}

/** @param {number} program @param {boolean} isDrum */
const keyOf = (program, isDrum) => (isDrum ? "drums" : String(program));
