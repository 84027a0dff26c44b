// Plays a stretch of what the model heard.

import { resample } from "./sound.js";

const MIN_RATE_HZ = 8_000; // browsers need play no slower samples (Web Audio API, BaseAudioContext.createBuffer)

export class Player {
  #context;
  #buffer;
  #source;
  #began;

  /** @param onTime called every frame with seconds while playing, then once with null */
  constructor(samples, sampleRateHz, onTime) {
    this.samples = samples;
    this.rate = sampleRateHz;
    this.onTime = onTime;
  }

  play(startS, endS) {
    this.stop();
    this.#context ??= new AudioContext();
    this.#context.resume();
    this.#buffer ??= this.#filled();
    const source = new AudioBufferSourceNode(this.#context, { buffer: this.#buffer });
    source.connect(this.#context.destination);
    source.onended = () => source === this.#source && this.stop();
    source.start(0, startS, endS - startS);
    this.#source = source;
    this.#began = this.#context.currentTime;
    const show = () => {
      if (source !== this.#source) return;
      this.onTime(Math.min(startS + this.#context.currentTime - this.#began, endS));
      requestAnimationFrame(show);
    };
    show();
  }

  stop() {
    if (!this.#source) return;
    const source = this.#source;
    this.#source = null;
    source.stop();
    this.onTime(null);
  }

  close() {
    this.stop();
    this.#context?.close();
  }

  #filled() {
    const rate = this.rate * Math.ceil(MIN_RATE_HZ / this.rate);
    const samples = resample(this.samples, this.rate, rate);
    const buffer = this.#context.createBuffer(1, samples.length, rate);
    buffer.copyToChannel(samples, 0);
    return buffer;
  }
}
