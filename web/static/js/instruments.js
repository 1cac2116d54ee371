/** General MIDI names: programs 0-127, and the drum keys 35-81. */

const PROGRAMS = `Acoustic grand piano|Bright piano|Electric grand|Honky-tonk piano|Electric piano 1|Electric piano 2
Harpsichord|Clavinet|Celesta|Glockenspiel|Music box|Vibraphone|Marimba|Xylophone|Tubular bells|Dulcimer|Drawbar organ
Percussive organ|Rock organ|Church organ|Reed organ|Accordion|Harmonica|Bandoneon|Nylon guitar|Steel guitar|Jazz guitar
Clean guitar|Muted guitar|Overdriven guitar|Distorted guitar|Guitar harmonics|Acoustic bass|Fingered bass|Picked bass
Fretless bass|Slap bass 1|Slap bass 2|Synth bass 1|Synth bass 2|Violin|Viola|Cello|Contrabass|Tremolo strings
Pizzicato strings|Harp|Timpani|String ensemble 1|String ensemble 2|Synth strings 1|Synth strings 2|Choir aahs|Voice oohs
Synth voice|Orchestra hit|Trumpet|Trombone|Tuba|Muted trumpet|French horn|Brass section|Synth brass 1|Synth brass 2
Soprano sax|Alto sax|Tenor sax|Baritone sax|Oboe|English horn|Bassoon|Clarinet|Piccolo|Flute|Recorder|Pan flute
Blown bottle|Shakuhachi|Whistle|Ocarina|Square lead|Saw lead|Calliope lead|Chiff lead|Charang lead|Voice lead|Fifths lead
Bass and lead|New age pad|Warm pad|Polysynth pad|Choir pad|Bowed pad|Metallic pad|Halo pad|Sweep pad|Rain|Soundtrack
Crystal|Atmosphere|Brightness|Goblins|Echoes|Sci-fi|Sitar|Banjo|Shamisen|Koto|Kalimba|Bagpipe|Fiddle|Shanai|Tinkle bell
Agogô|Steel drums|Woodblock|Taiko|Melodic tom|Synth drum|Reverse cymbal|Fret noise|Breath noise|Seashore|Bird|Telephone
Helicopter|Applause|Gunshot`.split(/[|\n]/);

const FIRST_DRUM = 35;
const DRUMS = `Low kick|Kick|Side stick|Snare|Clap|Electric snare|Low floor tom|Closed hi-hat|High floor tom|Pedal hi-hat
Low tom|Open hi-hat|Low-mid tom|High-mid tom|Crash 1|High tom|Ride 1|China cymbal|Ride bell|Tambourine|Splash|Cowbell
Crash 2|Vibraslap|Ride 2|High bongo|Low bongo|Muted high conga|Open high conga|Low conga|High timbale|Low timbale
High agogô|Low agogô|Cabasa|Maracas|Short whistle|Long whistle|Short guiro|Long guiro|Claves|High woodblock|Low woodblock
Muted cuica|Open cuica|Muted triangle|Open triangle`.split(/[|\n]/);

/** @param {number} program */
export function programName(program) {
  return PROGRAMS[program] ?? `Program ${program}`;
}

/** @param {number} key */
export function drumName(key) {
  return DRUMS[key - FIRST_DRUM] ?? `Drum ${key}`;
}
